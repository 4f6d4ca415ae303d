// All networks: a chart of error against multiply-adds, and a table.

import { ask, byId, draw, make, number } from "./server.js";

// On a phone the chart is smaller, so that its letters are not.
const [WIDTH, HEIGHT] = window.innerWidth < 600 ? [460, 460] : [900, 560];
const MARGIN = { left: 56, right: 16, top: 16, bottom: 48 };
const X_TICKS = [0.3, 0.5, 1, 2, 5, 10, 20, 50];
const Y_TICKS = [16, 18, 20, 22, 25, 30, 35, 40, 45];
const AREA = WIDTH / 100; // square pixels per million parameters

export async function start() {
  const found = await ask("/api/networks");
  chart(found);
  table(found);
  const notes = found.notes.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)]);
  byId("notes").replaceChildren(...notes);
}

function chart({ columns, rows, colours }) {
  const at = (row, column) => row.values[columns.indexOf(column)];
  const error = (row) => at(row, "top-1");
  const cost = (row) => at(row, "multiply-adds") / 1e9;
  const points = rows.filter((row) => row.chart).sort((a, b) => cost(a) - cost(b));
  const x = scale(points.map(cost), MARGIN.left, WIDTH - MARGIN.right);
  const y = scale(points.map(error), HEIGHT - MARGIN.bottom, MARGIN.top);
  const plot = byId("plot");
  plot.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  plot.replaceChildren(...axes(x, y));

  const circles = new Map();
  // Small circles come last, so that no large one covers them.
  for (const row of [...points].sort((a, b) => b.parameters - a.parameters)) {
    const circle = draw("circle", {
      cx: x(cost(row)), cy: y(error(row)), fill: colours[row.family], stroke: colours[row.family],
      r: Math.max(Math.sqrt((AREA * row.parameters) / 1e6 / Math.PI), 2.5),
      "fill-opacity": row.single_crop ? 0.5 : 0.1,
      "stroke-dasharray": row.single_crop ? "none" : "4 3",
      "data-name": at(row, "network"),
    });
    circle.addEventListener("pointerenter", () => choose(points.indexOf(row)));
    circles.set(row, circle);
    plot.append(circle);
  }
  const hint = byId("hint");
  let chosen = -1;

  function choose(index) {
    circles.get(points[chosen])?.classList.remove("chosen");
    chosen = index;
    hint.hidden = chosen < 0;
    if (hint.hidden) return;
    const row = points[chosen];
    circles.get(row).classList.add("chosen");
    hint.textContent =
      `${at(row, "network")}, ${at(row, "year")}\nafter: ${row.paper}\n` +
      `${number(row.parameters)} parameters\n${cost(row).toFixed(2)} billion multiply-adds\n` +
      `${row.texts[columns.indexOf("top-1")]} % top-1 error (${at(row, "protocol")})`;
    const shown = plot.getBoundingClientRect().width / WIDTH;
    const [left, top] = [x(cost(row)) * shown, y(error(row)) * shown];
    const width = plot.getBoundingClientRect().width;
    hint.style.left = `${Math.max(0, Math.min(left + 14, width - hint.offsetWidth))}px`;
    hint.style.top = `${top + 14}px`;
  }

  plot.addEventListener("pointerleave", () => choose(-1));
  plot.addEventListener("blur", () => choose(-1));
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose((chosen + step + points.length) % points.length);
  });
  const families = [...new Set(points.map((row) => row.family))];
  byId("legend").replaceChildren(...families.map((family) => {
    const dot = draw("circle", { cx: 6, cy: 6, r: 6, fill: colours[family] });
    return make("li", {}, draw("svg", { "aria-hidden": true }, dot), family);
  }));
}

// A logarithmic scale from the values, with a margin, to [from, to].
function scale(values, from, to) {
  const low = Math.log(Math.min(...values) * 0.93);
  const high = Math.log(Math.max(...values) * 1.07);
  return (value) => from + ((Math.log(value) - low) / (high - low)) * (to - from);
}

function axes(x, y) {
  const [left, bottom] = [MARGIN.left, HEIGHT - MARGIN.bottom];
  const lines = [];
  const inside = (value, low, high) => value >= low && value <= high;
  for (const tick of X_TICKS.filter((t) => inside(x(t), left, WIDTH))) {
    lines.push(draw("line", { class: "grid", x1: x(tick), x2: x(tick), y1: MARGIN.top, y2: bottom }));
    lines.push(draw("text", { x: x(tick), y: bottom + 18, "text-anchor": "middle" }, String(tick)));
  }
  for (const tick of Y_TICKS.filter((t) => inside(y(t), 0, bottom))) {
    lines.push(draw("line", { class: "grid", x1: left, x2: WIDTH - MARGIN.right, y1: y(tick), y2: y(tick) }));
    lines.push(draw("text", { x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, String(tick)));
  }
  const middle = (left + WIDTH) / 2;
  lines.push(draw("text", { x: middle, y: HEIGHT - 10, "text-anchor": "middle" }, "billion multiply-adds for one image"));
  lines.push(draw("text", { x: 14, y: HEIGHT / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${HEIGHT / 2})` }, "top-1 error, per cent"));
  return lines;
}

function table({ columns, rows }) {
  const sorting = { column: null, sign: 1 };
  const heads = columns.map((column, index) => {
    const button = make("button", { type: "button" }, column);
    const head = make("th", { scope: "col", className: isText(column) ? "text" : "" }, button);
    button.addEventListener("click", () => {
      sorting.sign = sorting.column === index ? -sorting.sign : 1;
      sorting.column = index;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sorting.sign > 0 ? "ascending" : "descending");
      show();
    });
    return head;
  });
  byId("heads").replaceChildren(...heads);

  function show() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = rows.filter((row) => {
      const text = [...row.texts, row.family, row.paper].join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    if (sorting.column !== null) chosen.sort((a, b) => compare(a, b, sorting));
    byId("table").replaceChildren(...chosen.map((row) => {
      const cells = row.texts.map((text, index) =>
        make("td", { className: isText(columns[index]) ? "text" : "" }, text));
      return make("tr", { title: `after: ${row.paper}` }, ...cells);
    }));
    byId("count").textContent = `${chosen.length} of ${rows.length} networks`;
  }
  byId("filter").addEventListener("input", show);
  show();
}

const isText = (column) => column === "network" || column === "protocol";

// Unknown values come last in both directions.
function compare(a, b, { column, sign }) {
  const [x, y] = [a.values[column], b.values[column]];
  if (x === null || y === null) return (x === null) - (y === null);
  return sign * (x < y ? -1 : x > y ? 1 : 0);
}
