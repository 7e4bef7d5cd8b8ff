// Says what happened and what to do.

import { make, show } from "./elements.js";
import { onLanguage, text } from "./texts.js";

const KINDS = {
  lost: ["lost"],
  interrupted: ["worker_ended", "worker_hung"],
  busy: ["queue_full", "memory_full", "conversation_busy"],
  loading: ["model_loading", "model_unavailable", "shutting_down"],
  slow: ["answer_too_slow", "body_too_slow"],
  gone: ["conversation_unknown", "conversation_deleted"],
  image: ["image_unusable", "image_decoder_died", "image_missing"],
  large: ["body_too_large"],
  question: ["question_unusable"],
  key: ["token_missing", "token_wrong"],
};
const WITH_CODE = ["other", "loading", "interrupted"];
const shown = new Map();

export function kindOf(code) {
  return Object.keys(KINDS).find((kind) => KINDS[kind].includes(code)) ?? "other";
}

// Shows the problem of a service's code; `again` is called by a button, if there is one.
export function showProblem(element, code, again) {
  const kind = kindOf(code);
  const lines = [`problems.${kind}`, ...(WITH_CODE.includes(kind) ? ["problems.code"] : [])];
  showWords(element, `problems.${kind}_title`, lines, again, { code });
}

export function showWords(element, title, lines, again = null, values = {}) {
  shown.set(element, () => {
    element.replaceChildren(
      make("h2", text(title)),
      ...lines.map((line) => make("p", text(line, values))),
      ...(again ? [button(element, again)] : []),
    );
  });
  shown.get(element)();
  show(element, true);
}

function button(element, again) {
  const made = make("button", text("problems.again"), { type: "button" });
  made.addEventListener("click", () => {
    hideProblem(element);
    again();
  });
  return made;
}

export function hideProblem(element) {
  shown.delete(element);
  element.replaceChildren();
  show(element, false);
}

onLanguage(() => {
  for (const draw of shown.values()) draw();
});
