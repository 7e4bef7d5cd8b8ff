// The screen of the report: the model's answers as they are written, and what can be done with them.

import { announce, hear, hearEnd } from "./announcer.js";
import { follow, isAnswering, stopAnswer } from "./answering.js";
import { drawAdvice } from "./check_screen.js";
import { showComparison } from "./comparison.js";
import { byId, make, show } from "./elements.js";
import { hideProblem, showProblem } from "./problems.js";
import { beginProgress, endProgress, moveProgress, sectionTitle } from "./progress.js";
import { showQuestions } from "./questions.js";
import { openReceipt } from "./receipt.js";
import { saveReport } from "./save.js";
import { report } from "./service.js";
import { dateAndTime, language, onLanguage, text } from "./texts.js";
import { current, onWipe } from "./visit.js";

const problem = byId("report-problem");
let texts = new Map(); // the Text node of each section's number
let names = []; // of the sections, as the service says them
let made = null; // when the report was made
let unfinished = null; // the key of the words that say why there is no more of it
let savedAs = null; // the name of the file

export function startReportScreen({ offers, onFinish, onAnother }) {
  byId("stop").addEventListener("click", stopAnswer);
  byId("print").addEventListener("click", () => window.print());
  byId("again").addEventListener("click", writeReport);
  byId("save").addEventListener("click", () => {
    savedAs = saveReport(made);
    drawSaved();
    announce(byId("saved").textContent, language());
    byId("saved").scrollIntoView({ block: "nearest" });
  });
  byId("show-receipt").addEventListener("click", () => openReceipt(made));
  byId("other-photo").addEventListener("click", onAnother);
  byId("finish").addEventListener("click", onFinish);
  show(byId("print"), offers.print);
  show(byId("save"), offers.save);
  onLanguage(drawAgain);
  onWipe(clear);
}

export async function writeReport() {
  if (isAnswering()) return;
  clear();
  const visit = current();
  byId("report-photo").src = visit.address;
  show(byId("report-photo"), true);
  drawNotes();
  show(byId("stop"), true);
  byId("sections").setAttribute("aria-busy", "true");
  beginProgress();
  const ended = await follow(report, (event) => {
    moveProgress(event);
    if (event.name === "text") addText(event.data);
    if (event.name === "report") visit.report = event.data;
  });
  if (ended !== null) finishReport(ended);
}

function addText({ number, section, text: piece }) {
  if (!texts.has(number)) {
    hearEnd();
    names[number] = section;
    const article = make("article");
    const answer = make("p", "", { className: "answer", lang: "en" });
    article.append(make("h2", sectionTitle(section)), answer);
    byId("sections").append(article);
    texts.set(number, answer.appendChild(new Text()));
    hear(`${sectionTitle(section)}\n`, language());
  }
  texts.get(number).appendData(piece);
  hear(piece);
}

function finishReport(ended) {
  hearEnd();
  byId("sections").removeAttribute("aria-busy");
  const stopHadFocus = document.activeElement === byId("stop");
  show(byId("stop"), false);
  const visit = current();
  if (ended === "done") {
    made = new Date();
    markAnswers(visit.report.turns);
    showQuestions();
    showComparison();
    show(byId("more"), true);
  } else if (ended !== "stopped") {
    showProblem(problem, ended, writeReport);
    problem.scrollIntoView({ block: "nearest" });
  }
  const stopped = texts.size ? "report.stopped" : "report.stopped_empty";
  if (ended !== "done") unfinished = ended === "stopped" ? stopped : "report.broken";
  endProgress(unfinished ?? "report.done");
  show(byId("again"), ended === "stopped");
  for (const id of ["save", "show-receipt"]) byId(id).disabled = ended !== "done";
  byId("print").disabled = !texts.size;
  drawMade();
  show(byId("report-actions"), true);
  if (stopHadFocus) byId("report-title").focus({ preventScroll: true });
}

function markAnswers(turns) {
  for (const [number, turn] of turns.entries()) {
    const answer = byId("sections").children[number]?.lastChild;
    const remark = turn.text ? (turn.finish_reason === "length" ? "report.cut" : "") : "report.empty";
    if (answer && remark) answer.after(make("p", text(remark), { className: "muted" }));
  }
}

function drawNotes() {
  const notes = current().conversation?.image.notes ?? [];
  drawAdvice(byId("report-notes"), notes);
  show(byId("report-notes-block"), notes.length > 0);
}

function drawMade() {
  // It is only on paper; on the screen the same is said elsewhere.
  const words = made ? text("report.made", { time: dateAndTime(made) }) : unfinished && text(unfinished);
  byId("made").textContent = words ?? "";
}

function drawSaved() {
  byId("saved").textContent = savedAs ? text("report.saved", { name: savedAs }) : "";
}

function drawAgain() {
  for (const [number, article] of [...byId("sections").children].entries()) {
    article.firstChild.textContent = sectionTitle(names[number]);
  }
  if (texts.size) drawNotes();
  drawMade();
  drawSaved();
}

function clear() {
  hideProblem(problem);
  [texts, names, made, unfinished, savedAs] = [new Map(), [], null, null, null];
  drawSaved();
  byId("sections").replaceChildren();
  byId("sections").removeAttribute("aria-busy");
  const photo = byId("report-photo");
  photo.removeAttribute("src");
  show(photo, false);
  byId("report-notes").replaceChildren();
  for (const id of ["report-notes-block", "stop", "more", "report-actions", "again"]) show(byId(id), false);
  byId("made").textContent = "";
}

