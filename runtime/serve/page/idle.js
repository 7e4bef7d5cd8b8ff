// When nobody has touched anything for a while, it is asked whether somebody is there; without an answer all is wiped.
// It is asked after LONGEST, too: a screen that is touched all night by a cloth or a fault asks, and only the button
// counts as an answer.

import { byId } from "./elements.js";
import { onLanguage, text } from "./texts.js";

const ANSWER = 20; // seconds to answer in; WCAG 2.2.1 asks for as many
const LONGEST = 600; // seconds, after which it is asked whatever was touched
const SIGNS = ["pointerdown", "pointermove", "keydown", "wheel", "input"];
const dialog = byId("idle");
let touched = Date.now();
let answered = Date.now();
let asked = null; // when it was asked

// `isActive`: whether there is anything to wipe. `isBusy`: an answer is being made. `onEnd`: wipe.
export function watchIdle({ seconds, isActive, isBusy, onEnd }) {
  const limit = ANSWER;
  const end = () => {
    close();
    onEnd();
  };
  for (const sign of SIGNS) document.addEventListener(sign, sign_of_life, { passive: true, capture: true });
  byId("stay").addEventListener("click", close);
  byId("leave").addEventListener("click", end);
  dialog.addEventListener("cancel", close); // the Escape key
  onLanguage(draw);
  setInterval(tick, 500);

  function tick() {
    const now = Date.now();
    if (!isActive() || now < touched || now < answered) touched = answered = now; // or the clock was set back
    if (asked && now < asked) asked = now;
    if (isBusy() && !asked) touched = now;
    if (asked) {
      draw();
      if (now - asked >= limit * 1000) end();
    } else if (now - touched >= (seconds + limit) * 1000) {
      end(); // the machine has slept
    } else if (now - touched >= seconds * 1000 || (now - answered >= LONGEST * 1000 && !isBusy())) {
      asked = now;
      draw();
      dialog.showModal();
      byId("stay").focus();
    }
  }

  function draw() {
    if (!asked) return;
    const left = Math.max(0, Math.ceil(limit - (Date.now() - asked) / 1000));
    if (byId("idle-number").textContent === String(left)) return;
    byId("idle-number").textContent = left;
    byId("idle-text").textContent = text("idle.text", { seconds: left });
  }
}

function sign_of_life() {
  if (!asked) touched = Date.now();
}

function close() {
  asked = null;
  touched = answered = Date.now();
  byId("idle-number").textContent = "";
  dialog.close();
}

// A new person has begun.
export function restartIdle() {
  close();
}
