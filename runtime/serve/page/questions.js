// Further questions about the photo: suggested ones to touch, or one's own.

import { announce, hear, hearEnd } from "./announcer.js";
import { follow, isAnswering, stopAnswer } from "./answering.js";
import { byId, make, show } from "./elements.js";
import { hideProblem, kindOf, showProblem } from "./problems.js";
import { answer } from "./service.js";
import { entry, language, onLanguage, text } from "./texts.js";
import { current, onWipe } from "./visit.js";

const problem = byId("question-problem");

export function startQuestions() {
  byId("question-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const question = byId("question").value.trim();
    if (question) ask(question, question);
    else byId("question").focus();
  });
  byId("stop-question").addEventListener("click", stopAnswer);
  onLanguage(() => current().report && drawSuggestions());
  onWipe(clear);
}

export function showQuestions() {
  clear();
  drawSuggestions();
}

function drawSuggestions() {
  byId("suggestions").replaceChildren(
    ...entry("questions", "suggestions").map((one) => {
      const item = make("li");
      const button = make("button", one.show, { type: "button", className: "suggestion" });
      button.addEventListener("click", () => ask(one.ask, one.show));
      item.append(button);
      return item;
    }),
  );
}

// `question` goes to the model, `shown` is the same in the chosen language.
async function ask(question, shown) {
  if (isAnswering()) return; // the button of an earlier problem may still be there
  const asker = document.activeElement;
  hideProblem(problem);
  const { item, said } = turn(question, shown);
  byId("talk").append(item);
  byId("question").value = "";
  setBusy(true);
  announce(text("questions.asking"), language());
  const visit = current();
  const ended = await follow(
    (id, signal) => answer(id, question, signal),
    ({ name, data }) => {
      if (name === "answer") visit.answers.push(data);
      if (name === "text") addText(said, data.text);
    },
  );
  if (ended === null) return;
  hearEnd();
  setBusy(false);
  if (said.classList.contains("waiting")) said.textContent = ended === "done" ? text("report.empty") : "";
  if (ended === "done") announce(text("questions.answered"), language());
  else {
    item.append(make("p", text(ended === "stopped" ? "questions.stopped" : "questions.failed"), { className: "muted" }));
    if (ended !== "stopped") fail(ended, question, shown, item);
  }
  giveFocus(asker);
}

function turn(question, shown) {
  const item = make("div", "", { className: "turn" });
  const asked = make("p", "", { className: "asked" });
  asked.append(make("span", text("questions.you"), { className: "hidden" }), make("span", shown, { lang: language() }));
  if (shown !== question) asked.append(make("span", question, { className: "muted", lang: "en" }));
  const said = make("p", text("questions.asking"), { className: "answer waiting" });
  item.append(asked, said);
  return { item, said };
}

function addText(said, piece) {
  if (said.classList.contains("waiting")) {
    Object.assign(said, { className: "answer", lang: "en" });
    said.replaceChildren(new Text());
  }
  said.firstChild.appendData(piece);
  hear(piece);
}

// A question that is refused can be made shorter; any other is asked again with the same words.
function fail(code, question, shown, item) {
  if (kindOf(code) === "question") {
    item.remove();
    byId("question").value = question;
    showProblem(problem, code);
    return;
  }
  showProblem(problem, code, () => {
    item.remove();
    ask(question, shown);
  });
}

// Back to what was pressed; to the field for a question of one's own only from there, because it brings up a keyboard.
function giveFocus(asker) {
  if (document.activeElement !== document.body) return;
  const target = asker.isConnected && asker !== document.body ? asker : byId("suggestions").querySelector("button");
  target.focus({ preventScroll: true });
}

export function setBusy(busy) {
  for (const control of [...byId("suggestions").querySelectorAll("button"), byId("ask"), byId("compare")]) {
    control.disabled = busy;
  }
  show(byId("ask"), !busy);
  show(byId("stop-question"), busy);
  if (busy) byId("stop-question").focus();
}

function clear() {
  hideProblem(problem);
  byId("talk").replaceChildren();
  byId("question").value = "";
  byId("suggestions").replaceChildren();
  for (const id of ["ask", "compare"]) byId(id).disabled = false;
  show(byId("ask"), true);
  show(byId("stop-question"), false);
}
