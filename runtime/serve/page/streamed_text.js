// A text that grows. Many small changes of a page cost more than few, so pieces that come soon are put together;
// the first one is shown at once.

const PAUSE = 500; // milliseconds

export class StreamedText {
  #node = document.createTextNode("");
  #waiting = "";
  #timer = null;

  constructor(element) {
    element.replaceChildren(this.#node);
  }

  get text() {
    return this.#node.data + this.#waiting;
  }

  add(piece) {
    this.#waiting += piece;
    if (this.#timer) return;
    this.#flush();
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#flush();
    }, PAUSE);
  }

  end() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#flush();
  }

  #flush() {
    if (this.#waiting) this.#node.appendData(this.#waiting);
    this.#waiting = "";
  }
}
