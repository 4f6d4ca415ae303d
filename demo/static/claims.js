// The papers' claims, those with a verdict first.

import { ask, byId, make } from "./server.js";

export async function start() {
  const found = await ask("/api/claims");
  byId("claim-list").replaceChildren(...found.map(article));
}

function article(row) {
  const lines = [
    make("h3", {}, row.claim),
    make("p", { className: "note" }, `${row.source}. Stated: ${row.stated}.`),
  ];
  if (row.verdict) {
    const verdict = make("strong", {}, row.verdict);
    lines.push(make("p", {}, verdict, ` (${row.scale}): ${row.reason}.`));
  } else {
    lines.push(make("p", { className: "note" }, `not run yet: python -m claims ${row.name}`));
  }
  if (row.figure) {
    lines.push(make("img", { src: `/figures/${row.figure}`, alt: `Figure: ${row.claim}` }));
  }
  const paragraphs = row.text.split("\n\n").map((text) => make("p", {}, text));
  lines.push(make("details", {}, make("summary", {}, "How it is tried"), ...paragraphs));
  return make("article", {}, ...lines);
}
