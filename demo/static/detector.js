// The column of a detector: an image with its boxes, and a threshold.

import { draw, make, number } from "./server.js";

// Okabe and Ito's colours, which colour-blind readers can tell apart.
const COLOURS = ["#d55e00", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#f0e442"];
const KINDS = ["detections", "proposals", "anchors"];
let columns = 0; // made so far: radio buttons of two must not share a name

// Returns the function that makes the elements of an answer. What was chosen stays
// chosen for the next image.
export function answers(run) {
  const name = `kind-${columns++}`;
  const chosen = { kind: KINDS[0], threshold: run.threshold, row: 0.5, column: 0.5 };

  return (found) => {
    const overlay = draw("svg", {
      class: "overlay", role: "img", viewBox: `0 0 ${found.width} ${found.height}`,
    });
    const list = make("ol", { className: "found" });
    const said = make("p", { className: "note" });
    said.setAttribute("role", "status");

    const sliders = {
      threshold: slider("least score", chosen, "threshold", show),
      row: slider("row of the anchors", chosen, "row", show),
      column: slider("column of the anchors", chosen, "column", show),
    };

    function show() {
      const { boxes, text } = look(found, chosen);
      const image = draw("image", { href: found.picture, width: found.width, height: found.height });
      const size = Math.max(found.width, found.height) / 36; // of letters
      overlay.replaceChildren(image, ...boxes.flatMap((box, i) => rectangle(box, i, size)));
      overlay.setAttribute("aria-label", text);
      said.textContent = text;
      const lines = chosen.kind === "detections" ? boxes : [];
      list.replaceChildren(...lines.map((b) => make("li", {}, `${b.name} ${b.score.toFixed(2)}`)));
      const anchors = chosen.kind === "anchors";
      sliders.threshold.hidden = anchors;
      sliders.row.hidden = sliders.column.hidden = !anchors;
    }

    const radios = KINDS.map((kind) => {
      const radio = make("input", { type: "radio", name, checked: kind === chosen.kind });
      radio.addEventListener("change", () => {
        chosen.kind = kind;
        show();
      });
      return make("label", {}, radio, ` ${kind}`);
    });
    const kinds = make("fieldset", {}, make("legend", {}, "Show"), ...radios);
    const controls = make("div", { className: "controls" }, kinds, ...Object.values(sliders));
    show();
    return [controls, said, overlay, list];
  };
}

function slider(title, chosen, field, show) {
  const input = make("input", { type: "range", min: 0, max: 1, step: 0.01 });
  input.value = chosen[field];
  const value = make("output", {}, chosen[field].toFixed(2));
  input.addEventListener("input", () => {
    chosen[field] = Number(input.value);
    value.textContent = chosen[field].toFixed(2);
    show();
  });
  return make("label", {}, `${title} `, value, input);
}

// Returns the boxes to draw and the words for them.
function look(found, { kind, threshold, row, column }) {
  if (kind === "anchors") {
    const at = (share, side) => Math.floor(share * (side / found.stride - 1e-6)) * found.stride;
    const [x, y] = [at(column, found.width), at(row, found.height)];
    const boxes = found.anchors.map(([a, b, c, d]) => ({ box: [a + x, b + y, c + x, d + y] }));
    const text = `the ${boxes.length} anchors of one position; there are as many every ${found.stride} pixels`;
    return { boxes, text };
  }
  const boxes = found[kind].filter((box) => box.score >= threshold);
  const [listed, all] = [found[kind].length, found.number[kind]];
  const best = listed < all ? `the best ${listed} of ${number(all)}` : all;
  return { boxes, text: `${boxes.length} of ${best} ${kind}` };
}

// Returns a box, and its name above it if it has one.
function rectangle({ name, score, box: [x1, y1, x2, y2] }, number, size) {
  const colour = COLOURS[hash(name || String(number)) % COLOURS.length];
  const sides = { x: x1, y: y1, width: x2 - x1, height: y2 - y1, stroke: colour };
  const rect = draw("rect", sides);
  if (score === undefined) return [rect];
  const words = `${name} ${score.toFixed(2)}`.trim();
  rect.append(draw("title", {}, words));
  if (!name) return [rect];
  const place = { x: x1, y: y1 > size ? y1 - size / 4 : y1 + size, fill: colour };
  return [rect, draw("text", { ...place, "font-size": size }, words)];
}

function hash(text) {
  return [...text].reduce((sum, letter) => (31 * sum + letter.codePointAt(0)) % 65521, 7);
}
