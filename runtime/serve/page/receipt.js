// What ran, for how long, and with which model: from the report as the service gave it.

import { byId, make } from "./elements.js";
import { dateAndTime, language, onLanguage, text } from "./texts.js";
import { current, onWipe } from "./visit.js";

const dialog = byId("receipt");
let when = null;

export function startReceipt() {
  byId("close-receipt").addEventListener("click", () => dialog.close());
  onLanguage(draw);
  onWipe(() => {
    when = null;
    dialog.close();
    byId("receipt-rows").replaceChildren();
  });
}

export function openReceipt(made) {
  when = made;
  draw();
  dialog.showModal();
}

function draw() {
  const { report } = current();
  if (!report || !when) return;
  byId("receipt-rows").replaceChildren(...rows(report).map(([name, value]) => row(name, value)));
}

function row(name, value) {
  const made = make("tr");
  made.append(make("th", text(`receipt.${name}`), { scope: "row" }), make("td", value));
  return made;
}

function rows(report) {
  const engine = (stage) => text("receipt.engine", report.engines[stage]);
  const time = (...stages) => {
    const total = stages.reduce((sum, stage) => sum + report.timings_ms[stage], 0) / 1000;
    if (total < 0.05) return text("receipt.no_time");
    return text("receipt.seconds", { seconds: total.toLocaleString(language(), { maximumFractionDigits: 1 }) });
  };
  const { temperature } = report.generation;
  const tokens = report.turns.reduce((sum, turn) => sum + turn.token_ids.length, 0);
  return [
    ["bundle", report.bundle.name],
    ["bundle_id", report.bundle.id],
    ["when", dateAndTime(when)],
    ["total", time("total")],
    ["image", report.image.cached ? text("receipt.known") : time("image_decode", "preprocess", "vision_encoder", "qformer")],
    ["prompt", time("prefill_system", "prefill_image", "prefill_text")],
    ["generate", time("generate")],
    ["tokens", tokens.toLocaleString(language())],
    ["generation", temperature ? text("receipt.sampled", { temperature, seed: report.seed }) : text("receipt.greedy")],
    ["vision_encoder", engine("vision_encoder")],
    ["qformer", engine("qformer")],
    ["language_model", engine("language_model")],
    ["photo", report.image.sha256],
  ];
}
