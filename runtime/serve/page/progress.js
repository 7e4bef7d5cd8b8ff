// How far a report is: its stages, a bar, and how long it still takes, as far as the service knows.

import { byId, make, show } from "./elements.js";
import { entry, onLanguage, setText, text } from "./texts.js";
import { onWipe } from "./visit.js";

const SHARE_OF_PHOTO = 0.15; // of the bar
const LONGER = 1.5; // times as long as usual is longer than usual
const NEAR_THE_END = 0.7; // of the bar
let sections = [];
let seconds = null; // that a report usually takes here
let stage = 0; // number of the stage that is in progress
let part = 0; // of this stage
let began = null;
let ticker = null;
let drawn = 0; // when the bar was drawn last

export function setUsual(about) {
  sections = about.sections;
  seconds = about.report_seconds;
}

export const sectionTitle = (name) => entry("sections", name) ?? name;
const titles = () => [text("report.stage_photo"), text("report.stage_look"), ...sections.map(sectionTitle)];

export function beginProgress() {
  [stage, part, began] = [0, 0, Date.now()];
  setText(byId("progress-title"), "report.running");
  drawStages();
  show(byId("stages"), true);
  drawTime();
  ticker = setInterval(drawTimeNow, 1000);
}

// An event of the service moves it on.
export function moveProgress({ name, data }) {
  const before = stage;
  if (name === "stage" && data.stage === "image_decode") stage = 1;
  if (name === "stage" && data.stage === "vision_encoder" && data.done === data.total) stage = 2;
  if (name === "stage" && data.stage === "prompt") stage = Math.max(stage, 2);
  if (name === "text") stage = 2 + data.number;
  if (stage !== before) part = 0;
  if (name === "text") part = 1 - (1 - part) * 0.995 ** data.text.length; // nobody knows how long the answer will be
  if (stage !== before) drawStages();
  if (stage !== before || Date.now() - drawn > 900) drawTime();
}

export function endProgress(key) {
  clearInterval(ticker);
  if (key === "report.done") stage = sections.length + 2;
  began = null;
  setText(byId("progress-title"), key);
  drawStages();
  show(byId("stages"), key !== "report.done"); // all are done, and there is something else to see now
  drawTime();
}

function drawStages() {
  const states = titles().map((_, number) => (number < stage ? "done" : number === stage && began ? "now" : "waiting"));
  byId("stages").replaceChildren(
    ...titles().map((title, number) => {
      const item = make("li", title, { className: states[number] });
      item.append(make("span", `, ${text(`report.stage_states.${states[number]}`)}`, { className: "hidden" }));
      return item;
    }),
  );
}

// Where text streams the bar is drawn together with it, because each drawing costs.
function drawTimeNow() {
  if (Date.now() - drawn > 1500) drawTime();
}

function drawTime() {
  drawn = Date.now();
  const bar = byId("progress-bar");
  bar.value = 100 * share();
  bar.hidden = !began;
  const words = began ? left() : "";
  if (byId("progress-left").textContent !== words) byId("progress-left").textContent = words;
}

function share() {
  if (stage < 2) return (stage + part) * (SHARE_OF_PHOTO / 2);
  const done = Math.min((stage - 2 + part) / sections.length, 1);
  return SHARE_OF_PHOTO + (1 - SHARE_OF_PHOTO) * done;
}

function left() {
  const gone = (Date.now() - began) / 1000;
  if (!seconds) return text("report.left_unknown");
  if (gone > LONGER * seconds + 5) return text("report.longer");
  const rest = seconds - gone;
  if (rest < 2) return text(share() > NEAR_THE_END ? "report.left_soon" : "report.left_working");
  return rest < 90
    ? text("report.left", { seconds: Math.ceil(rest / 5) * 5 })
    : text("report.left_minutes", { minutes: Math.round(rest / 60) });
}

export function expected() {
  if (!seconds) return "";
  if (seconds < 7.5) return text("report.expected_short");
  return seconds < 90
    ? text("report.expected", { seconds: Math.round(seconds / 5) * 5 })
    : text("report.expected_minutes", { minutes: Math.round(seconds / 60) });
}

onLanguage(() => {
  if (byId("stages").children.length) drawStages();
  if (began) drawTime();
  if (byId("expected").textContent) byId("expected").textContent = expected();
});

onWipe(() => {
  clearInterval(ticker);
  began = null;
  delete byId("progress-title").dataset.text;
  byId("progress-title").textContent = "";
  byId("progress-left").textContent = "";
  byId("stages").replaceChildren();
  byId("progress-bar").value = 0;
});
