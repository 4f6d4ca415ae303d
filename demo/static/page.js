// Starts the page: its parts, and a column for each run.

import * as classifier from "./classifier.js";
import * as detector from "./detector.js";
import { ask, byId, make } from "./server.js";
import * as input from "./input.js";
import * as claims from "./claims.js";
import * as networks from "./networks.js";

const SECTIONS = { try: () => {}, networks: networks.start, claims: claims.start };
const started = new Set();

function say(text, problem = false) {
  byId("status").textContent = text;
  byId("status").className = problem ? "problem" : "";
}

async function navigate() {
  const name = location.hash.slice(1) in SECTIONS ? location.hash.slice(1) : "try";
  for (const section of Object.keys(SECTIONS)) byId(section).hidden = section !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (started.has(name)) return;
  started.add(name);
  try {
    await SECTIONS[name]();
  } catch (error) {
    started.delete(name);
    byId(name).prepend(make("p", { className: "problem" }, error.message));
  }
}

// Makes the column of a run; returns the function that shows an image in it and tells
// whether there is an answer.
function column(run, number) {
  const base = `/api/runs/${number}`;
  const root = byId("run").content.cloneNode(true).firstElementChild;
  byId("runs").append(root);
  const [problem, result] = ["problem", "result"].map((name) => root.querySelector(`.${name}`));
  root.querySelector(".name").textContent = run.run;
  root.querySelector(".about").textContent =
    `${run.network} after step ${run.step}, ${run.classes} classes`;
  const isClassifier = run.kind === "classifier";
  const content = isClassifier ? classifier.answer : detector.answers(run);
  const update = isClassifier
    ? classifier.parts(run, base, root.querySelector(".parts"))
    : () => {};
  let newest = null;

  return async (blob, query) => {
    newest = blob;
    let error = null;
    try {
      const found = await ask(`${base}/answer${query}`, blob);
      if (newest !== blob) return;
      result.replaceChildren(...content(found));
      update(blob, query);
    } catch (failed) {
      if (newest !== blob) return;
      result.replaceChildren();
      update(null, "");
      error = failed;
    }
    problem.hidden = !error;
    problem.textContent = error ? error.message : "";
    return !error;
  };
}

async function begin() {
  let found;
  try {
    found = await ask("/api/runs");
  } catch (error) {
    return say(error.message, true);
  }
  const columns = found.runs.map(column);
  let newest = null;
  const show = async (blob, drawn, text) => {
    newest = blob;
    const image = byId("given-image");
    URL.revokeObjectURL(image.src);
    byId("given").hidden = drawn;
    if (!drawn) image.src = URL.createObjectURL(blob);
    byId("given-text").textContent = text;
    say("computing …");
    const start = performance.now();
    const query = drawn ? "?drawn=1" : "";
    const answered = await Promise.all(columns.map((one) => one(blob, query)));
    const time = Math.round(performance.now() - start);
    if (newest !== blob) return;
    say(answered.includes(true) ? `answered in ${time} ms` : "");
  };
  input.start(found.runs, found.most_bytes, show, say);
}

window.addEventListener("hashchange", navigate);
navigate();
begin();
