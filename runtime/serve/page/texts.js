// All words of the page, in the language that was chosen; texts/LANGUAGE.json has them.

import { make } from "./elements.js";

export const LANGUAGES = ["en", "ja"];
// The language of whoever comes first: the browser's, if there are texts for it.
export const HOME = navigator.languages.map((one) => one.split("-")[0]).find((one) => LANGUAGES.includes(one)) ?? "en";
const loaded = {};
const listeners = [];
let current = HOME;

export async function loadTexts() {
  for (const language of LANGUAGES) {
    const response = await fetch(`texts/${language}.json`);
    loaded[language] = await response.json();
  }
  for (const group of document.querySelectorAll(".languages")) group.append(...LANGUAGES.map(button));
  setLanguage(current);
}

function button(language) {
  const made = make("button", loaded[language].language, { type: "button", lang: language });
  made.dataset.language = language;
  made.addEventListener("click", () => setLanguage(language));
  return made;
}

export const language = () => current;

// Called now and whenever the language changes, for texts that depend on more than the language.
export function onLanguage(listener) {
  listeners.push(listener);
}

export function setLanguage(chosen) {
  current = chosen;
  document.documentElement.lang = chosen;
  document.title = `${text("title")} – SkinGPT Edge`;
  for (const made of document.querySelectorAll(".languages button")) {
    made.setAttribute("aria-pressed", String(made.dataset.language === chosen));
  }
  const attributes = { text: "textContent", label: "ariaLabel", alt: "alt" };
  for (const [name, property] of Object.entries(attributes)) {
    for (const element of document.querySelectorAll(`[data-${name}]`)) {
      element[property] = text(element.dataset[name]);
    }
  }
  for (const listener of listeners) listener();
}

// With the month as a word, because 3/4 is in March for some and in April for others.
export const dateAndTime = (when) => when.toLocaleString(current, { dateStyle: "long", timeStyle: "short" });

// The text of a key such as "report.left", with {name} replaced by values.name.
export function text(key, values = {}) {
  const found = key.split(".").reduce((part, name) => part?.[name], loaded[current]);
  return String(found ?? key).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// What stands under a key as it is: a list, or undefined if nothing does.
export function entry(group, name) {
  return loaded[current]?.[group]?.[name];
}

// Sets an element's text by its key, also after another language is chosen.
export function setText(element, key) {
  element.dataset.text = key;
  element.textContent = text(key);
}
