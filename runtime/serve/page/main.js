// Starts the page, and leads from screen to screen.

import { announce } from "./announcer.js";
import { isAnswering, stopAnswer } from "./answering.js";
import { checkPhoto, startCheckScreen } from "./check_screen.js";
import { startComparison } from "./comparison.js";
import { byId, show } from "./elements.js";
import { restartIdle, watchIdle } from "./idle.js";
import { cameraShown, chooseFile, leaveCamera, startPhotoScreen, useCamera } from "./photo_screen.js";
import { kindOf } from "./problems.js";
import { setUsual } from "./progress.js";
import { startQuestions } from "./questions.js";
import { startReceipt } from "./receipt.js";
import { startReportScreen, writeReport } from "./report_screen.js";
import { currentScreen, showScreen, watchBack } from "./screens.js";
import { about, forgetAll } from "./service.js";
import { HOME, language, loadTexts, setLanguage, setText } from "./texts.js";
import { setTextSize, startTextSize } from "./text_size.js";
import { current, onWipe, setPhoto, wipe } from "./visit.js";

const RETRY = 3000; // milliseconds
const SLOW = 1000; // milliseconds, after which somebody wants to know why
const FORGET_AGAIN = 60_000; // milliseconds; see forgetAll
let whenSure = startOver; // what is done when somebody is sure

async function main() {
  await untilLoaded();
  startTextSize();
  const { kiosk } = await whenReady();
  forgetAll();
  startPhotoScreen({ offers: kiosk, onPhoto });
  startCheckScreen({ onReport, onAnother });
  startReportScreen({ offers: kiosk, onFinish: startOver, onAnother: () => askToDelete(anotherPhoto) });
  startQuestions();
  startComparison();
  startReceipt();
  byId("accept").addEventListener("click", onAccept);
  byId("start-over").addEventListener("click", () => askToDelete(startOver));
  byId("keep").addEventListener("click", () => byId("sure").close());
  byId("delete").addEventListener("click", () => {
    byId("sure").close();
    whenSure();
  });
  watchBack(goBack);
  // No browser's menu on a screen that is touched for long; a field keeps the one to paste with.
  document.addEventListener("contextmenu", (event) => event.target.closest("input") ?? event.preventDefault());
  onWipe(() => byId("sure").close());
  watchIdle({ seconds: kiosk.idle_seconds, isActive, isBusy: isAnswering, onEnd: startOver });
  // A page that is left keeps nothing, also if the browser keeps the page to show it again.
  window.addEventListener("pagehide", leave);
  window.addEventListener("pageshow", (event) => event.persisted && leave());
  setInterval(() => currentScreen() === "start" && forgetAll(), FORGET_AGAIN);
  showScreen("start");
}

async function untilLoaded() {
  for (;;) {
    try {
      return await loadTexts();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

// What the service says of itself, as soon as it does.
async function whenReady() {
  for (;;) {
    try {
      const found = await about();
      byId("notice").textContent = byId("report-notice").textContent = found.notice;
      setUsual(found);
      return found;
    } catch (error) {
      const kind = kindOf(error.code);
      if (kind === "key") setText(byId("wait-title"), "wait.key_title");
      setText(byId("wait-text"), kind === "key" ? "wait.key" : kind === "lost" ? "wait.lost" : "wait.loading");
      if (currentScreen() !== "wait") showScreen("wait");
      if (kind === "key") await new Promise(() => {}); // only another start helps
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }
}

async function onAccept() {
  byId("accept").disabled = true;
  sayWiped(false);
  forgetAll();
  const slow = setTimeout(sayLoading, SLOW);
  await whenReady(); // also the newest figure of how long a report takes
  clearTimeout(slow);
  byId("accept").disabled = false;
  showScreen("photo");
}

function sayLoading() {
  setText(byId("wait-text"), "wait.loading");
  showScreen("wait");
}

function onPhoto(photo, fromCamera) {
  setPhoto(photo, fromCamera);
  showScreen("check");
  checkPhoto();
}

function onAnother() {
  const { fromCamera } = current();
  anotherPhoto();
  if (fromCamera) useCamera();
  else chooseFile();
}

function onReport() {
  showScreen("report");
  writeReport();
}

// Whether there is anything that the next person should not find.
function isActive() {
  return currentScreen() !== "wait" && (currentScreen() !== "start" || language() !== HOME);
}

function leave() {
  stopAnswer();
  leaveCamera();
  wipe();
  setLanguage(HOME);
  setTextSize(0);
  showScreen("start");
}

// A report is not lost by one wrong touch.
function askToDelete(then) {
  whenSure = then;
  if (currentScreen() === "report") byId("sure").showModal();
  else then();
}

// The browser's Back leads to the screen before, and out of the page only from the start.
function goBack() {
  const dialog = document.querySelector("dialog[open]");
  if (dialog) dialog.id === "idle" ? byId("stay").click() : dialog.close();
  else if (cameraShown()) leaveCamera();
  else if (currentScreen() === "check") anotherPhoto();
  else if (currentScreen() !== "start") askToDelete(startOver);
}

function anotherPhoto() {
  stopAnswer();
  wipe(); // of the report, too; language and text size stay
  showScreen("photo");
}

function startOver() {
  const hadPhoto = current().photo !== null;
  leave();
  restartIdle();
  sayWiped(hadPhoto);
}

function sayWiped(visible) {
  show(byId("wiped"), visible);
  if (!visible) return;
  setText(byId("wiped"), "wiped");
  announce(byId("wiped").textContent, language());
}

main();
