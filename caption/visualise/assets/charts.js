"use strict";
// What the explorer draws numbers with: bars of a vector, and maps of the regions.

const clamp = (x, low, high) => Math.min(high, Math.max(low, x));

// Return a number as the page shows it: four decimals, or a power of ten if it is positive and below them.
function format(x) {
  if (x > 0 && x < 0.00005) {
    const [digits, exponent] = x.toExponential(1).split("e");
    return `${digits} × 10${exponent.replace(/./g, (digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)])}`;
  }
  return x.toFixed(4).replace("-", "−");
}

// A vector as bars, with a slider that chooses one of its numbers: by pointer, or by arrow keys.
class Bars {
  // symbol: MathML; name: for a screen reader; low, high: the range, or null for that of the numbers, zero in its middle.
  constructor(parent, symbol, name, low, high, choose) {
    Object.assign(this, { name, low, high, choose, chosen: 0 });
    const element = addElement("div", parent, "bars");
    addElement("span", element, "symbol").innerHTML = symbol;
    this.track = addElement("div", element, "track");
    this.track.tabIndex = 0;
    this.track.setAttribute("role", "slider");
    this.track.setAttribute("aria-label", name);
    const paths = ["cursor", "zero", "bar"].map((part) => `<path class="${part}"/>`);
    this.track.innerHTML = `<svg preserveAspectRatio="none" aria-hidden="true">${paths.join("")}</svg>`;
    this.output = addElement("span", element, "number");
    this.track.addEventListener("keydown", (event) => this.press(event));
    this.track.addEventListener("pointerdown", (event) => this.point(event));
    this.track.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.point(event));
  }

  show(values, chosen) {
    const n = values.length, largest = values.reduce((a, b) => Math.max(a, Math.abs(b)), 1e-9);
    const high = this.high === null ? largest : this.high, low = this.low === null ? -largest : this.low;
    Object.assign(this, { values, chosen: Math.min(chosen, n - 1) });
    const [svg, cursor, zero, bar] = ["svg", ".cursor", ".zero", ".bar"].map((part) => this.track.querySelector(part));
    svg.setAttribute("viewBox", `0 ${-high} ${n} ${high - low}`);
    zero.setAttribute("d", `M0 0H${n}`);
    bar.setAttribute("d", Array.from(values, (x, j) => `M${j + 0.5} 0V${-x}`).join(""));
    cursor.setAttribute("d", `M${this.chosen + 0.5} ${-high}V${-low}`);
    bar.style.strokeWidth = n > 200 ? 1 : 0.75;
    cursor.style.strokeWidth = Math.max(1, n / 100);
    const value = `[${this.chosen + 1}] ${format(values[this.chosen])}`;
    this.output.textContent = value;
    this.output.title = `${n} numbers, drawn from ${format(low)} to ${format(high)}`;
    for (const [key, text] of Object.entries({ valuemin: 1, valuemax: n, valuenow: this.chosen + 1, valuetext: value }))
      this.track.setAttribute(`aria-${key}`, text);
  }

  press(event) {
    const n = this.values.length, { chosen } = this;
    const moves = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -n, End: n };
    if (!(event.key in moves)) return;
    event.preventDefault();
    this.choose(clamp(chosen + moves[event.key], 0, n - 1));
  }

  point(event) {
    const box = this.track.getBoundingClientRect(), n = this.values.length;
    this.choose(clamp(Math.floor((n * (event.clientX - box.left)) / box.width), 0, n - 1));
  }
}

// The image of an entry in its own shape, with a frame around the part that the model saw.
function addImage(parent, data) {
  const figure = addElement("div", parent, "image");
  figure.style.aspectRatio = data.size[1] / data.size[0];
  figure.style.setProperty("--ratio", data.size[1] / data.size[0]);
  Object.assign(addElement("img", figure), { src: data.image, alt: "", draggable: false });
  const frame = addElement("div", figure, "window");
  ["left", "top", "width", "height"].forEach((side, n) => (frame.style[side] = `${100 * data.window[n]}%`));
  return frame;
}

// Place an element over a number of rows and columns of the grid from a region on.
function place(element, grid, region, rows = 1, columns = 1) {
  const corner = (n) => `${(100 * (grid.first + (n - 0.5) * grid.step + 0.5)) / grid.size}%`;
  element.style.left = corner(region % grid.columns);
  element.style.top = corner(Math.floor(region / grid.columns));
  element.style.width = `${(100 * columns * grid.step) / grid.size}%`;
  element.style.height = `${(100 * rows * grid.step) / grid.size}%`;
}

// Return the place of a pointer on the grid, in columns and rows from the centre of the first region.
function gridPlace(event, frame, grid) {
  const box = frame.getBoundingClientRect();
  const along = (fraction, count) => clamp((fraction * grid.size - 0.5 - grid.first) / grid.step, -0.5, count - 0.5);
  return {
    x: along((event.clientX - box.left) / box.width, grid.columns),
    y: along((event.clientY - box.top) / box.height, grid.rows),
  };
}

function nearestRegion({ x, y }, grid) {
  return clamp(Math.round(y), 0, grid.rows - 1) * grid.columns + clamp(Math.round(x), 0, grid.columns - 1);
}

const describeRegion = (region, grid) => `row ${Math.floor(region / grid.columns) + 1}, column ${(region % grid.columns) + 1}`;

// One number of every region over the image, from dark (the smallest) to bright (the largest), with a scale.
class RegionMap {
  constructor(parent, data, grid, name, choose) {
    Object.assign(this, { grid, name });
    const figure = addElement("figure", parent, "map");
    const frame = addImage(figure, data);
    frame.classList.add("visible");
    frame.setAttribute("role", "img");
    this.canvas = addElement("canvas", frame, "regions");
    Object.assign(this.canvas, { width: grid.columns, height: grid.rows });
    place(this.canvas, grid, 0, grid.rows, grid.columns);
    this.cell = addElement("div", frame, "cell");
    this.frame = frame;
    const scale = addElement("figcaption", figure, "scale");
    this.low = addElement("span", scale);
    const colours = COLOURS.map((colour) => `rgb(${colour})`);
    addElement("span", scale, "gradient").style.background = `linear-gradient(to right, ${colours})`;
    this.high = addElement("span", scale);
    for (const kind of ["pointermove", "pointerdown"])
      frame.addEventListener(kind, (event) => choose(nearestRegion(gridPlace(event, frame, grid), grid)));
  }

  show(values, region) {
    const low = Math.min(...values), high = Math.max(...values), context = this.canvas.getContext("2d");
    const pixels = context.createImageData(this.canvas.width, this.canvas.height);
    values.forEach((value, n) => pixels.data.set([...cividis((value - low) / Math.max(high - low, 1e-12)), 225], 4 * n));
    context.putImageData(pixels, 0, 0);
    place(this.cell, this.grid, region);
    this.low.textContent = format(low);
    this.high.textContent = format(high);
    const largest = describeRegion(argmax(values), this.grid);
    this.frame.setAttribute("aria-label", `${this.name}: ${format(low)} to ${format(high)}, the largest at ${largest}`);
  }
}
