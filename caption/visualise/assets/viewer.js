"use strict";
// A picture with its captions: the light on it follows the word under the pointer, the one tapped, or the arrow keys.

const DIM = 0.2; // brightness where the model did not look at all
// Cividis (Nuñez et al., 2018), which the colour-blind see as others do.
const COLOURS = [[0, 34, 78], [35, 62, 108], [87, 93, 109], [124, 123, 120], [165, 156, 116], [210, 193, 95], [254, 232, 56]];
let inColour = false;
let current = null; // the viewer that the arrow keys move in
const lit = new Set(); // the viewers that show a word's attention

function decode(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Attention of one word, L numbers row by row -> a map of pixels in [0, 1], its largest 1: down x grid x across'.
function upsample(weights, cells) {
  const { rows, columns, down, across } = cells;
  const half = across.map((shares) => {
    const line = new Float64Array(rows);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) line[r] += weights[r * columns + c] * shares[c];
    return line;
  });
  const map = new Float64Array(down.length * across.length);
  let largest = 1e-12;
  down.forEach((shares, y) => {
    half.forEach((line, x) => {
      let value = 0;
      for (let r = 0; r < rows; r++) value += shares[r] * line[r];
      map[y * across.length + x] = value;
      largest = Math.max(largest, value);
    });
  });
  return map.map((value) => value / largest);
}

function paint(canvas, map) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  map.forEach((share, i) => {
    let colour = [0, 0, 0], opacity = (1 - DIM) * (1 - share);
    if (inColour) {
      const place = share * (COLOURS.length - 1), below = Math.min(Math.floor(place), COLOURS.length - 2);
      colour = COLOURS[below].map((from, k) => from + (place - below) * (COLOURS[below + 1][k] - from));
      opacity = 0.7;
    }
    pixels.data.set([...colour, 255 * opacity], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

function make(tag, parent, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

class Viewer {
  // data: {picture, size: [height, width], window: [left, top, width, height], name, captions: [{words,
  // log_probability, finished}], references, notes}; fetchLooks() -> promise of [{weights, gates, locations, heads}],
  // one a caption.
  constructor(data, cells, fetchLooks) {
    Object.assign(this, { data, cells, fetchLooks, looks: null, beam: 0, head: -1, word: -1, sticky: false });
    this.element = make("article", null, "viewer");
    this.element.tabIndex = 0;
    this.element.setAttribute("aria-label", data.name);
    const figure = make("div", this.element, "picture");
    figure.style.aspectRatio = `${data.size[1]} / ${data.size[0]}`;
    const image = make("img", figure);
    Object.assign(image, { loading: "lazy", decoding: "async", src: data.picture, alt: data.name });
    this.frame = make("div", figure, "window");
    data.window.forEach((share, i) => (this.frame.style[["left", "top", "width", "height"][i]] = `${100 * share}%`));
    this.canvas = make("canvas", this.frame);
    this.canvas.width = cells.across.length;
    this.canvas.height = cells.down.length;
    this.cell = make("div", this.frame, "cell");
    const text = make("div", this.element, "text");
    make("h3", text, "", data.name);
    this.caption = make("p", text, "caption");
    this.about = make("p", text, "about");
    if (data.captions.length > 1) this.makeBeams(text);
    if (data.notes) make("p", text, "notes", data.notes);
    if (data.references.length) {
      const list = make("ul", text, "references");
      data.references.forEach((reference) => make("li", list, "", reference));
    }
    this.element.addEventListener("pointerenter", () => this.activate());
    this.element.addEventListener("focusin", () => this.activate());
    this.element.addEventListener("pointerleave", () => this.sticky || this.show(-1));
    this.choose(0);
  }

  makeBeams(parent) {
    const list = make("ol", parent, "beams");
    this.beams = this.data.captions.map((caption, i) => {
      const button = make("button", make("li", list), "", `${caption.words.join(" ")}${caption.finished ? "" : " …"}`);
      make("span", button, "", ` ${caption.log_probability.toFixed(2)}`);
      button.addEventListener("click", () => this.choose(i));
      return button;
    });
  }

  // Attention of all heads together, or of one.
  makeHeads() {
    const select = make("select", make("label", null, "heads", "attention of "));
    ["all heads", ...this.looks[0].heads.map((head) => head.name)].forEach((name) => make("option", select, "", name));
    select.addEventListener("change", () => {
      this.head = select.selectedIndex - 1;
      this.show(this.word);
    });
    this.about.after(select.parentElement);
  }

  // One of the captions that the search found.
  choose(beam) {
    this.beam = beam;
    this.caption.replaceChildren();
    this.words = this.data.captions[beam].words.map((word, t) => {
      const button = make("button", this.caption, "word", word);
      this.caption.append(" ");
      button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.show(t));
      button.addEventListener("focus", () => this.show(t));
      button.addEventListener("click", () => {
        this.sticky = !(this.sticky && this.word === t);
        this.show(this.sticky ? t : -1);
      });
      return button;
    });
    if (!this.data.captions[beam].finished) this.caption.append("…");
    (this.beams || []).forEach((button, i) => button.setAttribute("aria-pressed", i === beam));
    this.drawGates();
    this.show(-1);
  }

  async activate() {
    current = this;
    if (!this.looks) {
      this.looks = await this.fetchLooks();
      if (this.looks[0].heads.length) this.makeHeads();
      this.drawGates();
      this.show(this.word);
    }
  }

  // The bar under each word: beta, how much of what was seen went into it.
  drawGates() {
    const gates = this.looks && this.looks[this.beam].gates;
    if (gates) this.words.forEach((button, t) => button.style.setProperty("--gate", gates[t]));
  }

  show(t) {
    this.word = t;
    this.words.forEach((button, i) => button.setAttribute("aria-pressed", i === t));
    const on = t >= 0 && this.looks !== null;
    this.frame.classList.toggle("on", on);
    lit[on ? "add" : "delete"](this);
    this.about.textContent = " ";
    if (!on) return;
    const look = this.looks[this.beam], count = this.cells.rows * this.cells.columns;
    const part = this.head < 0 ? look : look.heads[this.head];
    const weights = decode(part.weights).slice(t * count, (t + 1) * count);
    paint(this.canvas, upsample(weights, this.cells));
    const told = [`most of its attention at one place: ${Math.round(100 * part.largest[t])} %`];
    if (look.gates) told.push(`β = ${look.gates[t].toFixed(2)}`);
    this.about.textContent = told.join(" · ");
    this.cell.hidden = !look.locations;
    if (look.locations) {
      const { columns, size, first, step } = this.cells, place = look.locations[t];
      const corner = (n) => `${(100 * (first + (n - 0.5) * step + 0.5)) / size}%`;
      this.cell.style.left = corner(place % columns);
      this.cell.style.top = corner(Math.floor(place / columns));
      this.cell.style.width = this.cell.style.height = `${(100 * step) / size}%`;
    }
  }

  step(by) {
    this.sticky = true;
    this.show(Math.min(this.words.length - 1, Math.max(0, this.word + by)));
  }
}

document.addEventListener("keydown", async (event) => {
  if (!current || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const { key } = event, beams = current.data.captions.length;
  if (key === "ArrowRight" || key === "ArrowLeft") {
    await current.activate();
    current.step(key === "ArrowRight" ? 1 : -1);
  } else if ((key === "ArrowDown" || key === "ArrowUp") && beams > 1) {
    event.preventDefault();
    current.choose((current.beam + (key === "ArrowDown" ? 1 : beams - 1)) % beams);
  } else if (key === "Escape") {
    current.sticky = false;
    current.show(-1);
  }
});

function colourButton(parent) {
  const button = make("button", parent, "", "in colour");
  button.setAttribute("aria-pressed", false);
  button.addEventListener("click", () => {
    inColour = !inColour;
    button.setAttribute("aria-pressed", inColour);
    lit.forEach((viewer) => viewer.show(viewer.word));
  });
}
