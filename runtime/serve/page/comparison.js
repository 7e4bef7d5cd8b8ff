// Several answers to the first question, and how far they agree.

import { announce } from "./announcer.js";
import { follow, isAnswering, stopAnswer } from "./answering.js";
import { byId, make, show } from "./elements.js";
import { hideProblem, showProblem } from "./problems.js";
import { compare } from "./service.js";
import { language, onLanguage, text } from "./texts.js";
import { onWipe } from "./visit.js";

const CHOICES = 5;
const problem = byId("comparison-problem");
let found = null;

export function startComparison() {
  byId("compare").addEventListener("click", start);
  byId("stop-comparison").addEventListener("click", stopAnswer);
  onLanguage(draw);
  onWipe(clear);
}

export const showComparison = () => clear();

async function start() {
  if (isAnswering()) return;
  clear();
  let done = 0;
  const tell = () => {
    byId("comparison-status").textContent = text("comparison.running", { done, total: CHOICES });
  };
  tell();
  setBusy(true);
  byId("stop-comparison").focus();
  const ended = await follow(
    (id, signal) => compare(id, CHOICES, signal),
    ({ name, data }) => {
      if (name === "sample") done += 1;
      if (name === "consistency") found = data;
      else tell();
    },
  );
  if (ended === null) return;
  const mayMove = [document.body, byId("stop-comparison")].includes(document.activeElement);
  setBusy(false);
  byId("comparison-status").textContent = ended === "stopped" ? text("questions.stopped") : "";
  if (ended === "done") draw();
  else if (ended !== "stopped") showProblem(problem, ended, start);
  if (mayMove) byId("compare").focus();
}

function draw() {
  if (!found) return;
  const total = found.samples.length;
  const [first] = found.conditions.filter((one) => one.condition);
  const values = { total, count: first?.count, condition: first?.condition };
  byId("comparison-status").textContent = text(first ? "comparison.agree" : "comparison.none", values);
  byId("bars").replaceChildren(...found.conditions.map((one) => bar(one, total)));
  byId("sample-list").replaceChildren(...found.samples.map((sample) => make("li", sample.text)));
  show(byId("samples"), true);
  announce(byId("comparison-status").textContent, language());
}

function bar({ condition, count }, total) {
  const item = make("li");
  const meter = make("meter", "", { min: 0, max: total, value: count });
  meter.ariaLabel = condition ?? text("comparison.nothing_named");
  const name = make("span", condition ?? text("comparison.nothing_named"), condition ? { lang: "en" } : {});
  item.append(name, meter, make("span", text("comparison.times", { count, total })));
  return item;
}

function setBusy(busy) {
  for (const control of [byId("ask"), ...byId("suggestions").querySelectorAll("button")]) control.disabled = busy;
  show(byId("compare"), !busy);
  show(byId("stop-comparison"), busy);
}

function clear() {
  found = null;
  hideProblem(problem);
  byId("comparison-status").textContent = "";
  byId("bars").replaceChildren();
  byId("sample-list").replaceChildren();
  byId("samples").open = false;
  show(byId("samples"), false);
  show(byId("compare"), true);
  show(byId("stop-comparison"), false);
}
