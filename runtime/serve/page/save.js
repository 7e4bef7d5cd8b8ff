// Saves the report as JSON, in the form of report.schema.json, with the answers to further questions as more turns.

import { make } from "./elements.js";
import { current } from "./visit.js";

// Gives the file's name.
export function saveReport(made) {
  const { report, answers } = current();
  const whole = { ...report, turns: [...report.turns, ...answers] };
  const address = URL.createObjectURL(new Blob([JSON.stringify(whole, null, 1)], { type: "application/json" }));
  const stamp = made.toISOString().slice(0, 16).replace(/[-:]/g, "").replace("T", "-");
  const name = `skingpt-report-${stamp}.json`;
  make("a", "", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  return name;
}
