"use strict";
// A whole split: thousands of images in a list that grows as it is scrolled. Attention is loaded when it is needed.

const STEP = 20; // images added at a time
const chunks = new Map(); // number -> {promise, resolve} of the attention in it

// Each file of attention is a script that calls this: a page opened from a disk may not fetch anything else.
window.attentionLoaded = (number, attention) => chunks.get(number).resolve(attention);

function loadAttention(index) {
  const number = Math.floor(index / report.chunk);
  if (!chunks.has(number)) {
    const chunk = {};
    chunk.promise = new Promise((resolve) => (chunk.resolve = resolve));
    chunks.set(number, chunk);
    addElement("script", document.head).src = `data/attention-${String(number).padStart(4, "0")}.js`;
  }
  return chunks.get(number).promise.then((attention) => [attention[index % report.chunk]]);
}

function createViewer(index) {
  const entry = report.entries[index];
  const scores = report.sorts.map((name, i) => `${name} ${entry.scores[i] === null ? "–" : entry.scores[i].toFixed(1)}`);
  const data = {
    image: `images/${String(index).padStart(6, "0")}.jpg`,
    size: [1, 1],
    window: [0, 0, 1, 1],
    name: entry.name,
    captions: [{ words: entry.words, separator: entry.separator, log_probability: entry.log_probability, finished: entry.finished }],
    references: entry.references,
    notes: [...scores, `log-probability ${entry.log_probability.toFixed(2)}`, ...entry.notes].join(" · "),
  };
  return new Viewer(data, report.grid, () => loadAttention(index));
}

const list = document.getElementById("list"), end = document.getElementById("end");
const sort = document.getElementById("sort"), order = document.getElementById("order");
const search = document.getElementById("search"), note = document.getElementById("note");
let selected = [], shown = 0; // images that pass the filters, in order; how many of them are in the list

function showMore() {
  const viewers = selected.slice(shown, shown + STEP).map(createViewer);
  shown += viewers.length;
  list.append(...viewers.map((viewer) => viewer.element));
  current = current || viewers[0] || null; // the arrow keys begin here
  end.textContent = `${shown} of ${selected.length} images`;
}

function applyFilters() {
  const by = sort.selectedIndex, wanted = search.value.trim().toLowerCase();
  const value = (i) => (by < report.sorts.length ? report.entries[i].scores[by] : report.entries[i].log_probability);
  selected = report.entries.map((_, i) => i);
  if (wanted) selected = selected.filter((i) => report.entries[i].text.includes(wanted));
  if (note.value) selected = selected.filter((i) => report.entries[i].notes.includes(note.value));
  const sign = order.value === "worst" ? 1 : -1;
  selected.sort((a, b) => sign * ((value(a) ?? -Infinity) - (value(b) ?? -Infinity)) || a - b);
  list.replaceChildren();
  litViewers.clear();
  current = null;
  shown = 0;
  showMore();
}

[...report.sorts, "log-probability"].forEach((name) => addElement("option", sort, "", name));
report.entries.forEach((entry) => {
  entry.text = [entry.name, entry.words.join(entry.separator), ...entry.references].join("\n").toLowerCase();
});
const notes = [...new Set(report.entries.flatMap((entry) => entry.notes))].sort();
notes.forEach((text) => addElement("option", note, "", text));
note.parentElement.hidden = !notes.length;
[sort, order, note].forEach((element) => element.addEventListener("change", applyFilters));
search.addEventListener("input", applyFilters);
addColourButton(document.getElementById("controls"));
applyFilters();
// Observed anew after each addition: an observer reports changes only, and a fast scroll leaves the end in view.
const observer = new IntersectionObserver(
  (seen) => {
    if (!seen.at(-1).isIntersecting || shown === selected.length) return;
    showMore();
    observer.unobserve(end);
    observer.observe(end);
  },
  { rootMargin: "600px" },
);
observer.observe(end);
