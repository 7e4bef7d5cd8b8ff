// The screen that says whether a photo is good enough, before the model is asked. The service checks it.

import { byId, make, show } from "./elements.js";
import { hideProblem, kindOf, showProblem } from "./problems.js";
import { expected } from "./progress.js";
import { entry, onLanguage, setText } from "./texts.js";
import { converse, current, onWipe } from "./visit.js";

const problem = byId("check-problem");
const buttons = ["get-report", "retake", "use-anyway", "another"];

export function startCheckScreen({ onReport, onAnother }) {
  byId("get-report").addEventListener("click", onReport);
  byId("use-anyway").addEventListener("click", onReport);
  byId("retake").addEventListener("click", onAnother);
  byId("another").addEventListener("click", onAnother);
  byId("check-photo").addEventListener("error", () => show(byId("check-photo"), false)); // what is said below is enough
  onLanguage(() => drawAdvice(byId("advice"), current().conversation?.image.notes ?? []));
  onWipe(clear);
}

export async function checkPhoto() {
  clear();
  const { address, fromCamera } = current();
  const anew = fromCamera ? "check.retake" : "check.another";
  for (const id of ["retake", "another"]) setText(byId(id), anew);
  byId("check-photo").src = address;
  show(byId("check-photo"), true);
  setText(byId("check-status"), "check.checking");
  byId("expected").textContent = expected();
  show(byId("another"), true);
  try {
    const { image } = await converse();
    drawAdvice(byId("advice"), image.notes);
    setText(byId("check-status"), image.notes.length ? "check.notes" : "check.good");
    byId("check-status").className = image.notes.length ? "doubt" : "good";
    offer(image.notes.length ? ["retake", "use-anyway"] : ["get-report", "another"]);
  } catch (error) {
    if (error.name === "AbortError") return;
    byId("check-status").textContent = byId("expected").textContent = "";
    const again = ["image", "large"].includes(kindOf(error.code)) ? null : checkPhoto;
    showProblem(problem, error.code, again);
    offer(again ? ["another"] : ["retake"]);
  }
}

function offer(names) {
  for (const id of buttons) show(byId(id), names.includes(id));
  if (document.activeElement === document.body || document.activeElement.hidden) byId(names[0]).focus();
}

function clear() {
  hideProblem(problem);
  const photo = byId("check-photo");
  photo.removeAttribute("src");
  show(photo, false);
  const status = byId("check-status");
  delete status.dataset.text;
  status.textContent = "";
  status.className = "";
  byId("expected").textContent = "";
  byId("advice").replaceChildren();
  for (const id of buttons) show(byId(id), false);
}

// What was found, in the chosen language; a note that has no translation is shown as the service says it.
export function drawAdvice(list, notes) {
  list.replaceChildren(
    ...notes.map((note) => {
      const translated = entry("notes", note.code);
      return make("li", translated ?? note.text, translated ? {} : { lang: "en" });
    }),
  );
}
