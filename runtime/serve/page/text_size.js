// Larger text on a screen whose browser has no menu.

import { byId } from "./elements.js";

const SIZES = ["", "larger", "largest"]; // 100, 150 and 200 %; style.css has them
let size = 0;

export function startTextSize() {
  byId("text-size").addEventListener("click", () => setTextSize((size + 1) % SIZES.length));
}

export function setTextSize(chosen) {
  size = chosen;
  document.documentElement.dataset.size = SIZES[size];
}
