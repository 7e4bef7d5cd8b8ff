// Further questions about the photo: suggested ones to touch, or one's own.

import { announce, hear, hearEnd } from "./announcer.js";
import { follow, stopAnswer } from "./answering.js";
import { byId, make, show } from "./elements.js";
import { hideProblem, showProblem } from "./problems.js";
import { answer } from "./service.js";
import { StreamedText } from "./streamed_text.js";
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
  hideProblem(problem);
  const item = make("div", "", { className: "turn" });
  const asked = make("p", "", { className: "asked" });
  asked.append(make("span", text("questions.you"), { className: "hidden" }), make("span", shown, { lang: language() }));
  if (shown !== question) asked.append(make("span", question, { className: "muted", lang: "en" }));
  const said = make("p", text("questions.asking"), { className: "answer waiting" });
  item.append(asked, said);
  byId("talk").append(item);
  byId("question").value = "";
  setBusy(true);
  announce(text("questions.asking"), language());
  let streamed = null;
  const visit = current();
  const ended = await follow(
    (id, signal) => answer(id, question, signal),
    ({ name, data }) => {
      if (name === "answer") visit.answers.push(data);
      if (name !== "text") return;
      if (!streamed) {
        said.className = "answer";
        said.lang = "en";
        streamed = new StreamedText(said);
      }
      streamed.add(data.text);
      hear(data.text);
    },
  );
  if (ended === null) return;
  streamed?.end();
  hearEnd();
  setBusy(false);
  if (ended === "done") {
    if (!streamed?.text) said.replaceChildren(text("report.empty"));
    announce(text("questions.answered"), language());
  } else if (ended === "stopped") {
    item.append(make("p", text("questions.stopped"), { className: "muted" }));
    if (!streamed) said.remove();
  } else {
    item.remove(); // it is asked again with the same words
    showProblem(problem, ended, () => ask(question, shown));
  }
}

export function setBusy(busy) {
  for (const control of [...byId("suggestions").querySelectorAll("button"), byId("ask"), byId("compare")]) {
    control.disabled = busy;
  }
  show(byId("ask"), !busy);
  show(byId("stop-question"), busy);
  if (busy) byId("stop-question").focus();
  else if (document.activeElement === document.body) byId("question").focus();
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
