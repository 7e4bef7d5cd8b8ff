// Short ways to the page's elements. Text is only ever set as text.

export const byId = (id) => document.getElementById(id);

export function make(tag, text = "", properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.textContent = text;
  return element;
}

export function show(element, visible) {
  element.hidden = !visible;
}
