// Asks the server, and makes elements.

// Returns the JSON of a request. Throws an Error whose message is one line.
export async function ask(path, body) {
  const options = body ? { method: "POST", body } : {};
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the program that serves this page does not answer");
  }
  let found;
  try {
    found = await response.json();
  } catch {
    throw new Error(`the page failed with status ${response.status}`);
  }
  if (!response.ok) throw new Error(found.error);
  return found;
}

// Makes an element with properties and children; strings become text, never HTML.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

export const number = (value) => value.toLocaleString("en");

export function figure(picture, text, className = "") {
  const image = make("img", { src: picture, alt: text });
  return make("figure", { className }, image, make("figcaption", {}, text));
}
