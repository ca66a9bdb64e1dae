"use strict";
// A whole split: thousands of pictures in a list that grows as it is scrolled; their attention is fetched when asked for.

const STEP = 20; // pictures added at a time
const chunks = new Map(); // number -> promise of the looks in it

// Each file of looks is a script that calls this: a page opened from a disk may not fetch anything else.
window.gotLooks = (number, looks) => chunks.get(number).resolve(looks);

function fetchLooks(index) {
  const number = Math.floor(index / report.chunk);
  if (!chunks.has(number)) {
    const entry = {};
    entry.promise = new Promise((resolve) => (entry.resolve = resolve));
    chunks.set(number, entry);
    make("script", document.head).src = `data/looks-${String(number).padStart(4, "0")}.js`;
  }
  return chunks.get(number).promise.then((looks) => [looks[index % report.chunk]]);
}

function viewerOf(index) {
  const item = report.items[index];
  const told = report.sorts.map((name, i) => `${name} ${item.scores[i] === null ? "–" : item.scores[i].toFixed(1)}`);
  const data = {
    picture: `pictures/${String(index).padStart(6, "0")}.jpg`,
    size: [1, 1],
    window: [0, 0, 1, 1],
    name: item.name,
    captions: [{ words: item.words, log_probability: item.log_probability, finished: item.finished }],
    references: item.references,
    notes: [...told, `log-probability ${item.log_probability.toFixed(2)}`, ...item.notes].join(" · "),
  };
  return new Viewer(data, report.cells, () => fetchLooks(index));
}

const list = document.getElementById("list"), end = document.getElementById("end");
const sort = document.getElementById("sort"), order = document.getElementById("order");
const search = document.getElementById("search"), note = document.getElementById("note");
let chosen = [], shown = 0;

function more() {
  const next = chosen.slice(shown, shown + STEP);
  shown += next.length;
  const viewers = next.map(viewerOf);
  list.append(...viewers.map((viewer) => viewer.element));
  current = current || viewers[0] || null; // where the arrow keys begin
  end.textContent = `${shown} of ${chosen.length} pictures`;
}

function choose() {
  const by = sort.selectedIndex, wanted = search.value.trim().toLowerCase();
  const value = (i) => (by < report.sorts.length ? report.items[i].scores[by] : report.items[i].log_probability);
  chosen = report.items.map((_, i) => i);
  if (wanted) chosen = chosen.filter((i) => report.items[i].text.includes(wanted));
  if (note.value) chosen = chosen.filter((i) => report.items[i].notes.includes(note.value));
  const sign = order.value === "worst" ? 1 : -1;
  chosen.sort((a, b) => sign * ((value(a) ?? -Infinity) - (value(b) ?? -Infinity)) || a - b);
  list.replaceChildren();
  lit.clear();
  current = null;
  shown = 0;
  more();
}

[...report.sorts, "log-probability"].forEach((name) => make("option", sort, "", name));
report.items.forEach((item) => (item.text = [item.name, item.words.join(" "), ...item.references].join("\n").toLowerCase()));
const notes = [...new Set(report.items.flatMap((item) => item.notes))].sort();
notes.forEach((text) => make("option", note, "", text));
note.parentElement.hidden = !notes.length;
[sort, order, note].forEach((element) => element.addEventListener("change", choose));
search.addEventListener("input", choose);
colourButton(document.getElementById("controls"));
choose();
new IntersectionObserver((seen) => seen[0].isIntersecting && more(), { rootMargin: "600px" }).observe(end);
