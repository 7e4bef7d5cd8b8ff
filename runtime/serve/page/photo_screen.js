// The screen on which a photo is taken, chosen or dropped. A photo that could be one goes to `onPhoto(blob, fromCamera)`.

import { CameraError, cameras, chooseNext, closeCamera, openCamera, takePhoto } from "./camera.js";
import { byId, show } from "./elements.js";
import { hideProblem, showProblem, showWords } from "./problems.js";
import { currentScreen } from "./screens.js";
import { setText } from "./texts.js";
import { onWipe } from "./visit.js";

const TYPES = ["image/jpeg", "image/png", "image/webp"];
const LARGEST = 20_000_000; // bytes; the service takes no more
const SELF_TIMER = 3; // seconds
const video = byId("video");
const problem = byId("photo-problem");
let timer = null;
let filesTaken = true;

export function startPhotoScreen({ offers, onPhoto }) {
  filesTaken = offers.file;
  show(byId("choose-file"), filesTaken);
  show(byId("drop-hint"), filesTaken);
  byId("use-camera").addEventListener("click", useCamera);
  byId("close-camera").addEventListener("click", leaveCamera);
  byId("other-camera").addEventListener("click", () => chooseNext().then(() => cameraShown() && useCamera()));
  byId("take").addEventListener("click", () => take(onPhoto));
  byId("take-later").addEventListener("click", () => countDown(SELF_TIMER, onPhoto));
  byId("choose-file").addEventListener("click", chooseFile);
  byId("file").addEventListener("change", (event) => {
    const files = [...event.target.files];
    event.target.value = ""; // the same file can be chosen again, and its name is not kept
    useFiles(files, onPhoto);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && cameraShown()) closeByKey();
  });
  startDropping(onPhoto);
  onWipe(leaveCamera);
  onWipe(() => hideProblem(problem));
}

export function leaveCamera() {
  clearInterval(timer);
  byId("countdown").textContent = "";
  closeCamera(video);
  show(byId("camera"), false);
  show(byId("choose"), true);
}

function closeByKey() {
  leaveCamera();
  byId("use-camera").focus();
}

export const cameraShown = () => !byId("camera").hidden;
export const chooseFile = () => byId("file").click();

export async function useCamera() {
  hideProblem(problem);
  clearInterval(timer);
  show(byId("choose"), false);
  show(byId("camera"), true);
  for (const id of ["take", "take-later"]) byId(id).disabled = true;
  setText(byId("camera-status"), "photo.camera_opening");
  try {
    if (!(await openCamera(video, () => failCamera("unplugged")))) return;
    setText(byId("camera-status"), "photo.camera_live");
    for (const id of ["take", "take-later"]) byId(id).disabled = false;
    byId("take").focus();
    show(byId("other-camera"), (await cameras()).length > 1);
  } catch (error) {
    failCamera(error instanceof CameraError ? error.kind : "busy");
  }
}

function failCamera(kind) {
  leaveCamera();
  if (currentScreen() !== "photo") return;
  const advice = filesTaken ? kind : "staff";
  showWords(problem, `camera_problems.${kind}_title`, [`camera_problems.${advice}`], useCamera);
}

async function take(onPhoto) {
  try {
    const photo = await takePhoto(video);
    if (!cameraShown()) return; // it was closed meanwhile, or the person has gone
    leaveCamera();
    onPhoto(photo, true);
  } catch (error) {
    failCamera(error instanceof CameraError ? error.kind : "busy");
  }
}

function countDown(seconds, onPhoto) {
  clearInterval(timer);
  let left = seconds;
  byId("countdown").textContent = left;
  timer = setInterval(() => {
    left -= 1;
    byId("countdown").textContent = left || "";
    if (left) return;
    clearInterval(timer);
    take(onPhoto);
  }, 1000);
}

function useFiles(files, onPhoto) {
  const [file] = files;
  if (!file || currentScreen() !== "photo") return; // the browser's choice may stay open when the person has gone
  hideProblem(problem);
  if (files.length > 1) showWords(problem, "problems.several_title", ["problems.several"]);
  else if (!TYPES.includes(file.type)) showWords(problem, "problems.kind_title", ["problems.kind"]);
  else if (file.size > LARGEST) showProblem(problem, "body_too_large");
  else {
    leaveCamera();
    onPhoto(file, false);
  }
}

// A file that is dropped anywhere else would be opened by the browser in place of the page.
function startDropping(onPhoto) {
  const ready = (event) => filesTaken && currentScreen() === "photo" && event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    event.dataTransfer.dropEffect = ready(event) ? "copy" : "none";
    document.body.classList.toggle("dropping", ready(event));
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    if (ready(event)) useFiles([...event.dataTransfer.files], onPhoto);
  });
}
