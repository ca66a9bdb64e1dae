"use strict";
// An image with its captions, lit by the attention of one word: under the pointer, tapped, or chosen by arrow keys.

const MIN_BRIGHTNESS = 0.2; // where there is no attention
// Cividis (Nuñez et al., 2018), which colour-blind readers see as others do.
const COLOURS = [[0, 34, 78], [35, 62, 108], [87, 93, 109], [124, 123, 120], [165, 156, 116], [210, 193, 95], [254, 232, 56]];
let inColour = false;
let current = null; // the viewer that the arrow keys move in
const litViewers = new Set(); // those that show a word's attention

function decodeBytes(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

// Upsample the attention of one word, L weights row by row, to a map of pixels with maximum 1: down x weights x across'.
function upsample(weights, grid) {
  const { rows, columns, down, across } = grid;
  const lines = across.map((column) => {
    const line = new Float64Array(rows);
    for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) line[r] += weights[r * columns + c] * column[c];
    return line;
  });
  const map = new Float64Array(down.length * across.length);
  let largest = 1e-12;
  down.forEach((row, y) => {
    lines.forEach((line, x) => {
      let value = 0;
      for (let r = 0; r < rows; r++) value += row[r] * line[r];
      map[y * across.length + x] = value;
      largest = Math.max(largest, value);
    });
  });
  return map.map((value) => value / largest);
}

// Return the colour [red, green, blue] of a value in 0 to 1.
function cividis(value) {
  const position = value * (COLOURS.length - 1), below = Math.min(Math.floor(position), COLOURS.length - 2);
  return COLOURS[below].map((from, k) => from + (position - below) * (COLOURS[below + 1][k] - from));
}

function paint(canvas, map) {
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(canvas.width, canvas.height);
  map.forEach((value, i) => {
    let colour = [0, 0, 0], opacity = (1 - MIN_BRIGHTNESS) * (1 - value);
    if (inColour) {
      colour = cividis(value);
      opacity = 0.7;
    }
    pixels.data.set([...colour, 255 * opacity], 4 * i);
  });
  context.putImageData(pixels, 0, 0);
}

function addElement(tag, parent, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

// An element for text of any language: its first letters decide whether it runs from the right.
function addText(tag, parent, className = "", text = "") {
  return Object.assign(addElement(tag, parent, className, text), { dir: "auto", lang: "" });
}

class Viewer {
  // data: {image, size: [height, width], window: [left, top, width, height], name, captions: [{words, separator,
  // log_probability, finished, probabilities}], references, notes}; loadAttention() -> promise of [{weights, largest, gates,
  // locations, heads}], one per caption.
  constructor(data, grid, loadAttention) {
    Object.assign(this, { data, grid, loadAttention, attention: null, beam: 0, head: -1, word: -1, sticky: false });
    this.element = addElement("article", null, "viewer");
    this.element.tabIndex = 0;
    this.element.setAttribute("aria-label", data.name);
    const figure = addElement("div", this.element, "image");
    figure.style.aspectRatio = `${data.size[1]} / ${data.size[0]}`;
    const image = addElement("img", figure);
    Object.assign(image, { loading: "lazy", decoding: "async", src: data.image, alt: data.name });
    this.frame = addElement("div", figure, "window");
    ["left", "top", "width", "height"].forEach((side, i) => (this.frame.style[side] = `${100 * data.window[i]}%`));
    this.canvas = addElement("canvas", this.frame);
    this.canvas.width = grid.across.length;
    this.canvas.height = grid.down.length;
    this.cell = addElement("div", this.frame, "cell");
    const text = addElement("div", this.element, "text");
    addElement("h3", text, "", data.name);
    this.caption = addText("p", text, "caption");
    this.details = addElement("p", text, "details");
    if (data.captions.length > 1) this.addBeams(text);
    if (data.notes) addElement("p", text, "notes", data.notes);
    if (data.references.length) {
      const list = addText("ul", text, "references");
      data.references.forEach((reference) => addElement("li", list, "", reference));
    }
    this.element.addEventListener("pointerenter", () => this.activate());
    this.element.addEventListener("focusin", () => this.activate());
    this.element.addEventListener("pointerleave", () => this.sticky || this.show(-1));
    this.chooseCaption(0);
  }

  addBeams(parent) {
    const list = addElement("ol", parent, "beams");
    this.beams = this.data.captions.map((caption, i) => {
      const text = `${caption.words.join(caption.separator)}${caption.finished ? "" : " …"} `;
      const button = addText("button", addElement("li", list), "", text);
      addElement("span", button, "", caption.log_probability.toFixed(2)).dir = "ltr"; // its sign stands before it
      button.addEventListener("click", () => this.chooseCaption(i));
      return button;
    });
  }

  // The choice between the attention of all heads together and of a single head.
  addHeads() {
    const select = addElement("select", addElement("label", null, "heads", "attention of "));
    const names = ["all heads", ...this.attention[0].heads.map((head) => head.name)];
    names.forEach((name) => addElement("option", select, "", name));
    select.addEventListener("change", () => {
      this.head = select.selectedIndex - 1;
      this.show(this.word);
    });
    this.details.after(select.parentElement);
  }

  chooseCaption(beam) {
    this.beam = beam;
    this.caption.replaceChildren();
    const { words, separator, probabilities } = this.data.captions[beam];
    this.words = words.map((word, t) => {
      const button = addElement("button", this.caption, "word", word);
      if (probabilities) button.style.setProperty("--probability", probabilities[t]);
      this.caption.append(separator);
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
    if (!this.attention) {
      this.attention = await this.loadAttention();
      if (this.attention[0].heads.length) this.addHeads();
      this.drawGates();
      this.show(this.word);
    }
  }

  // The bar under each word: its gate, how much the image counts.
  drawGates() {
    const gates = this.attention && this.attention[this.beam].gates;
    if (gates) this.words.forEach((button, t) => button.style.setProperty("--gate", gates[t]));
  }

  // Light the image by the attention of word t; -1: show it as it is.
  show(t) {
    this.word = t;
    this.words.forEach((button, i) => button.setAttribute("aria-pressed", i === t));
    const visible = t >= 0 && this.attention !== null;
    this.frame.classList.toggle("visible", visible);
    litViewers[visible ? "add" : "delete"](this);
    this.details.textContent = " ";
    if (!visible) return;
    const attention = this.attention[this.beam], count = this.grid.rows * this.grid.columns;
    const shown = this.head < 0 ? attention : attention.heads[this.head];
    const weights = decodeBytes(shown.weights).slice(t * count, (t + 1) * count);
    paint(this.canvas, upsample(weights, this.grid));
    const details = [`largest weight: ${Math.round(100 * shown.largest[t])} %`];
    const { probabilities } = this.data.captions[this.beam];
    if (probabilities) details.push(`p = ${probabilities[t].toFixed(2)}`);
    if (attention.gates) details.push(`gate ${attention.gates[t].toFixed(2)}`);
    this.details.textContent = details.join(" · ");
    this.cell.hidden = !attention.locations;
    if (attention.locations) {
      const { columns, size, first, step } = this.grid, location = attention.locations[t];
      const corner = (n) => `${(100 * (first + (n - 0.5) * step + 0.5)) / size}%`;
      this.cell.style.left = corner(location % columns);
      this.cell.style.top = corner(Math.floor(location / columns));
      this.cell.style.width = this.cell.style.height = `${(100 * step) / size}%`;
    }
  }

  moveBy(words) {
    this.sticky = true;
    this.show(Math.min(this.words.length - 1, Math.max(0, this.word + words)));
  }
}

document.addEventListener("keydown", async (event) => {
  if (!current || current.element.closest("[hidden]") || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT)$/.test(event.target.tagName)) return;
  const { key } = event, beams = current.data.captions.length;
  if (key === "ArrowRight" || key === "ArrowLeft") {
    const forward = getComputedStyle(current.caption).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    await current.activate();
    current.moveBy(key === forward ? 1 : -1);
  } else if ((key === "ArrowDown" || key === "ArrowUp") && beams > 1) {
    event.preventDefault();
    current.chooseCaption((current.beam + (key === "ArrowDown" ? 1 : beams - 1)) % beams);
  } else if (key === "Escape") {
    current.sticky = false;
    current.show(-1);
  }
});

function addColourButton(parent) {
  const button = addElement("button", parent, "", "in colour");
  button.setAttribute("aria-pressed", false);
  button.addEventListener("click", () => {
    inColour = !inColour;
    button.setAttribute("aria-pressed", inColour);
    litViewers.forEach((viewer) => viewer.show(viewer.word));
  });
}
