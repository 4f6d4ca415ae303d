// The column of a classifier: its answer, and the parts that open at a click.

import { ask, figure, make, number } from "./server.js";

const PARTS = [
  ["Layers and their maps", null],
  ["Grad-CAM: where it looks", "grad_cam"],
  ["Occlusion: what it needs", "occlusion"],
  ["Nearest training images", "neighbours"],
  ["Filters of the first layer", "filters"],
];

// Makes the parts of a run below its answer; `base` is its address. Returns the
// function that shows the parts of a new image, or of none.
export function parts(run, base, root) {
  let blob = null;
  let query = "";
  let stage = run.stages[0].name;
  const updates = [];

  for (const [title, action] of PARTS) {
    const panel = make("div", { className: "panel" });
    const part = make("details", {}, make("summary", {}, title), panel);
    root.append(part);
    let shown = null; // the image whose picture the panel has

    const update = async () => {
      const key = action === "filters" ? base : blob;
      if (!key) {
        shown = null;
        panel.replaceChildren();
      }
      if (!part.open || !key || shown === key) return;
      shown = key;
      if (action === null) return showStages(panel);
      panel.replaceChildren(make("p", {}, "computing …"));
      const content = await found(
        action === "filters" ? ask(`${base}/filters`) : ask(`${base}/${action}${query}`, blob),
      );
      if (shown === key) panel.replaceChildren(...content);
    };
    part.addEventListener("toggle", update);
    updates.push(update);
  }

  function showStages(panel) {
    const picture = make("div", { className: "maps" });
    picture.setAttribute("aria-live", "polite");
    const buttons = [];
    const choose = async (name) => {
      stage = name;
      for (const button of buttons) {
        button.setAttribute("aria-pressed", button.textContent === name);
      }
      const asked = blob;
      const more = `${query ? `${query}&` : "?"}stage=${encodeURIComponent(name)}`;
      const content = await found(ask(`${base}/stage${more}`, blob));
      if (asked === blob && stage === name) picture.replaceChildren(...content);
    };
    const rows = run.stages.map((row) => {
      const button = make("button", { type: "button" }, row.name);
      button.addEventListener("click", () => choose(row.name));
      if (row.name) buttons.push(button);
      const head = make("td", { className: "text" }, row.name ? button : "the rest");
      const values = [row.output, row.layers, row.parameters, row.multiply_adds];
      return make("tr", {}, head, ...values.map((v) => make("td", {}, text(v))));
    });
    const heads = ["stage", "output", "layers", "parameters", "multiply-adds"];
    const head = make("tr", {}, ...heads.map((h) => make("th", { scope: "col" }, h)));
    head.firstChild.className = "text";
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
    const wide = make("div", { className: "wide" }, table);
    panel.replaceChildren(wide, make("p", { className: "note" }, "A stage's button shows its maps."), picture);
    return choose(stage);
  }

  return (newBlob, newQuery) => {
    [blob, query] = [newBlob, newQuery];
    return Promise.all(updates.map((update) => update()));
  };
}

const text = (value) => (typeof value === "number" ? number(value) : value);

// Waits for a picture or several; an error becomes a line.
async function found(asked) {
  try {
    const result = await asked;
    if (!result.pictures) return [figure(result.picture, result.text)];
    const near = result.pictures.map(([picture, name]) => figure(picture, name));
    return [make("p", { className: "note" }, result.text), make("div", { className: "near" }, ...near)];
  } catch (error) {
    return [make("p", { className: "problem" }, error.message)];
  }
}

// Shows an answer: five bars, what the network sees, and LeNet-5's bitmaps.
export function answer(found) {
  const bars = found.best.map(([name, probability]) => {
    const share = `${(100 * probability).toFixed(1)} %`;
    const bar = make("div", { className: "bar" }); // the text says the same
    bar.style.width = `${100 * probability}%`;
    return make("li", {}, make("span", {}, name), make("span", {}, share), bar);
  });
  const list = make("ol", { className: "best" }, ...bars);
  list.setAttribute("aria-label", "The five best answers");
  const seen = figure(found.seen, "what the network sees");
  const content = [make("div", { className: "answer" }, list, seen)];
  if (found.note) content.push(make("p", { className: "note" }, found.note));
  if (found.lenet) content.push(bitmaps(found.lenet));
  return content;
}

function bitmaps({ code, rows }) {
  const least = Math.min(...rows.map(([, distance]) => distance));
  const others = rows.map(([name, distance, picture]) => {
    const one = figure(picture, `${name}: ${distance.toFixed(1)}`);
    one.className = distance === least ? "nearest" : "";
    one.firstChild.alt = `bitmap of ${name}`;
    return one;
  });
  const row = make("div", { className: "bitmaps" }, ...others);
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "Squared distances of F6 to the ten bitmaps");
  return make("div", { className: "lenet" }, figure(code, "F6 as 7x12", "code"), row);
}
