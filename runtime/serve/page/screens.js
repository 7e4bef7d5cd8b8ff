// One screen is shown at a time; its heading gets the focus, so that a screen reader says where one is.

import { byId, show } from "./elements.js";

const STEPS = ["start", "photo", "check", "report"];
const screens = document.querySelectorAll("[data-screen]");
let shown = "wait";

export const currentScreen = () => shown;

export function showScreen(name) {
  shown = name;
  for (const screen of screens) show(screen, screen.dataset.screen === name);
  const step = STEPS.indexOf(name);
  show(byId("steps"), step >= 0);
  show(byId("start-over"), step > 0);
  document.body.dataset.on = name;
  for (const [number, item] of document.querySelectorAll("[data-step]").entries()) {
    item.classList.toggle("done", number < step);
    if (number === step) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  }
  window.scrollTo(0, 0);
  byId(`${name}-title`).focus({ preventScroll: true });
}

// Calls `onBack` when the browser's Back is pressed, in place of leaving the page. For this the page stands twice in the
// history, with the same address.
export function watchBack(onBack) {
  const cover = () => history.state ?? history.pushState("visit", "");
  document.addEventListener("click", cover); // the browser heeds only what a touch has brought about
  window.addEventListener("popstate", () => {
    if (history.state || shown === "start" || shown === "wait") return;
    cover();
    onBack();
  });
}
