// Speaks to a screen reader: whole sentences of a text that comes in pieces.

import { byId, make } from "./elements.js";
import { onWipe } from "./visit.js";

const MOST = 6; // sentences that stay in the page
const log = byId("announcer");
let rest = "";
let spoken = "en";

export function announce(sentence, language) {
  log.append(make("p", sentence, language ? { lang: language } : {}));
  while (log.children.length > MOST) log.firstChild.remove();
}

// A piece of a text in a language; what is whole of it is said.
export function hear(piece, language = "en") {
  spoken = language;
  rest += piece;
  const end = Math.max(...[". ", "! ", "? ", "\n", "。"].map((mark) => rest.lastIndexOf(mark) + mark.length - 1));
  if (end > 1) {
    announce(rest.slice(0, end).trim(), spoken);
    rest = rest.slice(end);
  }
}

// The text has come to its end.
export function hearEnd() {
  if (rest.trim()) announce(rest.trim(), spoken);
  rest = "";
}

onWipe(() => {
  rest = "";
  log.replaceChildren();
});
