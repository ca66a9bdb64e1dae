"use strict";
// The explorer: step through the equations of a caption, move its light, and see the next words change.

const KEYS_HELP =
  "Choose a word (arrow keys ← →) and read the cards in order, equation by equation, each with its numbers. Then move the " +
  "light: click a region of the image, or choose a light below and drag it; by keys, go to the image by Tab, move by the arrow " +
  "keys, and press Enter. The words after it are written anew, the most probable at each step. Click one of the ten words to " +
  "write it instead.";
const GREEDY = "greedy search's caption: the most probable word at each step; beam search may find another";
const LIGHTS = { free: "free", even: "even", spot: "spot", cell: "one region" };
const MARKS = { even: "▦", spot: "◎", cell: "▣" }; // over a word whose light was moved
const TOP = 10; // words shown
const FREE = { kind: "free", weights: null };

// Return the weights of a spot: a Gaussian around a place, its radius (standard deviation) in regions.
function spotWeights({ x, y, radius }, grid) {
  const weights = new Float64Array(grid.rows * grid.columns).map((_, n) => {
    const dx = (n % grid.columns) - x, dy = Math.floor(n / grid.columns) - y;
    return -(dx * dx + dy * dy) / (2 * radius * radius);
  });
  return softmax(weights);
}

// A group of radio buttons; choices are {value: label}.
function addChoice(parent, legend, choices, chosen, choose) {
  const group = addElement("fieldset", parent, "choice"), name = `choice-${document.querySelectorAll("fieldset").length}`;
  addElement("legend", group, "", legend);
  return Object.fromEntries(
    Object.entries(choices).map(([value, text]) => {
      const label = addElement("label", group), input = addElement("input", label);
      Object.assign(input, { type: "radio", name, value, checked: value === chosen });
      addElement("span", label, "", text);
      input.addEventListener("click", () => choose(value)); // not "change": chosen again, it acts again
      return [value, input];
    }),
  );
}

// Give a viewer of the page of captions a button that opens the explorer of its image in place of all of them.
function addExploreButton(viewer, model) {
  const button = addElement("button", viewer.element.querySelector(".text"), "explore", "explore the equations");
  const others = Array.from(document.body.children).filter((element) => element.tagName !== "SCRIPT");
  let main = null;
  const show = (open) => {
    others.forEach((element) => (element.hidden = open));
    main.hidden = !open;
    scrollTo(0, 0);
  };
  button.addEventListener("click", () => {
    const isNew = main === null;
    if (isNew) main = addElement("main", document.body);
    show(true);
    if (isNew) new Explorer(main, model, viewer.data, () => { show(false); button.focus(); });
    main.querySelector(".word[aria-pressed=true]").focus();
  });
}

class Explorer {
  // model: of openModel; data: {image, size, window, name, regions}; close: what its button does, if there is one.
  constructor(parent, model, data, close = null) {
    const memory = prepare(model, data.regions);
    Object.assign(this, { model, data, memory, grid: model.grid, hard: false, t: 0, region: 0, onward: true });
    this.units = { E: 0, H: 0, D: 0 }; // the chosen number of word embeddings, of the LSTM and of annotation vectors
    this.lights = Array(model.maxLength).fill(FREE);
    this.chosen = Array(model.maxLength).fill(null);
    this.spot = { x: (model.grid.columns - 1) / 2, y: (model.grid.rows - 1) / 2, radius: 0.8 };
    this.steps = this.freeSteps = this.decode();
    this.build(parent, close);
    this.choose(0);
  }

  decode(kept = 0, lights = this.lights, chosen = this.chosen) {
    return decode(this.model, this.memory, lights.map((light) => light.weights), chosen, this.hard, this.steps, kept);
  }

  get step() {
    return this.steps[this.t];
  }

  // ---- what the reader does ----

  choose(t) {
    this.t = Math.min(this.steps.length - 1, Math.max(0, t));
    this.region = argmax(this.step.weights);
    this.show();
  }

  chooseRegion(region) {
    if (region === this.region) return;
    this.region = region;
    this.showRegion();
  }

  chooseUnit(kind, unit) {
    this.units[kind] = unit;
    this.showUnits();
  }

  // Read this word, or all from this word on, by this light; what was chosen after it is forgotten.
  setLight(kind) {
    const weights = {
      free: () => null,
      even: () => new Float64Array(this.memory.a.rows).fill(1 / this.memory.a.rows),
      spot: () => spotWeights(this.spot, this.grid),
      cell: () => oneHot(this.region, this.memory.a.rows),
    }[kind]();
    const light = weights ? { kind, weights, region: this.region, spot: { ...this.spot } } : FREE;
    if (this.onward) this.lights.fill(light, this.t);
    else this.lights[this.t] = light;
    this.writeAgain(this.t);
  }

  moveSpot(place) {
    Object.assign(this.spot, place);
    this.region = nearestRegion(this.spot, this.grid);
    this.setLight("spot");
  }

  lightRegion(region) {
    const { columns } = this.grid;
    this.region = region;
    if (this.lights[this.t].kind === "spot") this.moveSpot({ x: region % columns, y: Math.floor(region / columns) });
    else this.setLight("cell");
  }

  writeWord(word) {
    this.chosen.fill(null, this.t + 1);
    this.chosen[this.t] = word === mostProbable(this.step.logProbabilities, this.t) ? null : word;
    this.steps = this.decode(this.t);
    this.show();
  }

  writeAgain(t) {
    this.chosen.fill(null, t);
    this.steps = this.decode(t);
    this.show();
  }

  setHard(hard) {
    this.hard = hard;
    this.freeSteps = this.decode(0, this.lights.map(() => FREE), this.chosen.map(() => null));
    this.steps = this.decode();
    this.choose(this.t);
  }

  reset() {
    this.lights.fill(FREE);
    this.chosen.fill(null);
    this.steps = this.decode(0);
    this.choose(this.t); // or the last word, if there are fewer now
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.element.isConnected || this.element.closest("[hidden]")) return;
    if (/^(INPUT|SELECT)$/.test(event.target.tagName) || event.target.closest("[role=slider], [role=grid]")) return;
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    this.choose(this.t + move * (getComputedStyle(this.caption).direction === "rtl" ? -1 : 1));
    if (this.caption.contains(document.activeElement)) this.caption.children[this.t].focus();
  }

  // ---- what it consists of ----

  build(parent, close) {
    this.element = addElement("section", parent, "explorer");
    this.element.setAttribute("aria-label", "explorer of the equations");
    const top = addElement("header", this.element, "top");
    this.buildCaption(top, close);
    const stage = addElement("div", this.element, "stage");
    this.buildImage(stage);
    this.buildLights(stage);
    this.cards = addElement("ol", this.element, "cards");
    this.buildCards();
    this.status = addElement("p", this.element, "status");
    this.status.setAttribute("role", "status");
    new ResizeObserver(() => this.element.style.setProperty("--top", `${top.offsetHeight}px`)).observe(top);
    document.addEventListener("keydown", (event) => this.press(event));
  }

  buildCaption(top, close) {
    this.caption = addText("div", top, "caption");
    this.caption.setAttribute("role", "toolbar");
    this.caption.setAttribute("aria-label", "words of the caption");
    const free = addElement("p", top, "free");
    this.greedy = addElement("span", free, "", GREEDY);
    this.free = addText("span", free);
    const bar = addElement("div", top, "walk");
    const button = (text, label, act) => {
      const made = addElement("button", bar, "", text);
      made.setAttribute("aria-label", label);
      made.addEventListener("click", act);
      return made;
    };
    button("←", "word before", () => this.choose(this.t - 1));
    this.position = addElement("span", bar, "position");
    button("→", "next word", () => this.choose(this.t + 1));
    this.resetButton = button("free all", "free all light and words", () => this.reset());
    if (close) button("close", "close the explorer", close).classList.add("close");
  }

  buildImage(stage) {
    const { grid } = this, frame = addImage(stage, this.data);
    frame.classList.add("visible");
    frame.setAttribute("role", "grid");
    frame.setAttribute("aria-label", "regions of the image: Enter puts the light on one of them");
    this.frame = frame;
    this.canvas = addElement("canvas", frame);
    Object.assign(this.canvas, { width: grid.across.length, height: grid.down.length });
    this.ring = addElement("div", frame, "ring");
    this.cells = [];
    for (let r = 0; r < grid.rows; r++) {
      const line = addElement("div", frame, "line");
      line.setAttribute("role", "row");
      for (let c = 0; c < grid.columns; c++) {
        const cell = addElement("div", line, "region");
        cell.setAttribute("role", "gridcell");
        place(cell, grid, r * grid.columns + c);
        this.cells.push(cell);
      }
    }
    this.readout = addElement("p", stage, "readout");
    frame.addEventListener("keydown", (event) => this.pressInImage(event));
    this.followPointer(frame);
  }

  // A click lights one region; a drag, or any touch while the light is a spot, moves a spot.
  followPointer(frame) {
    let down = null, dragging = false;
    const isSpot = () => this.lights[this.t].kind === "spot";
    frame.addEventListener("pointerdown", (event) => {
      down = gridPlace(event, frame, this.grid);
      dragging = isSpot();
      if (event.pointerType === "mouse" || dragging) frame.setPointerCapture(event.pointerId);
      if (dragging) this.moveSpot(down);
    });
    frame.addEventListener("pointermove", (event) => {
      const at = gridPlace(event, frame, this.grid);
      if (down && event.pointerType === "mouse") dragging = dragging || Math.hypot(at.x - down.x, at.y - down.y) > 0.4;
      if (down && dragging) this.onFrame(() => this.moveSpot(at));
      else if (!down) this.chooseRegion(nearestRegion(at, this.grid));
    });
    frame.addEventListener("pointerup", (event) => {
      if (down && !dragging) this.lightRegion(nearestRegion(gridPlace(event, frame, this.grid), this.grid));
      down = null;
    });
    frame.addEventListener("pointercancel", () => (down = null));
  }

  // Act once for each frame that the screen shows, however often the pointer moves.
  onFrame(act) {
    if (!this.waiting) requestAnimationFrame(() => { const last = this.waiting; this.waiting = null; last(); });
    this.waiting = act;
  }

  pressInImage(event) {
    const { rows, columns } = this.grid, r = Math.floor(this.region / columns), c = this.region % columns;
    const moves = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };
    if (event.key in moves) {
      const [down, right] = moves[event.key];
      const region = Math.min(rows - 1, Math.max(0, r + down)) * columns + Math.min(columns - 1, Math.max(0, c + right));
      if (this.lights[this.t].kind === "spot") this.lightRegion(region);
      else this.chooseRegion(region);
      this.cells[region].focus();
    } else if (event.key === "Enter" || event.key === " ") this.lightRegion(this.region);
    else return;
    event.preventDefault();
  }

  buildLights(stage) {
    const panel = addElement("div", stage, "lights");
    this.lightInputs = addChoice(panel, "light", LIGHTS, "free", (kind) => this.setLight(kind));
    const size = addElement("label", panel, "size", "size of the spot ");
    this.size = Object.assign(addElement("input", size), { type: "range", min: 0.3, max: 3, step: 0.1, value: this.spot.radius });
    this.size.addEventListener("input", () => this.moveSpot({ radius: Number(this.size.value) }));
    addChoice(panel, "for", { onward: "from this word on", alone: "this word alone" }, "onward", (value) => {
      this.onward = value === "onward";
    });
    const reads = { expectation: "the expectation, eq. 13", location: "the most probable region, eq. 9" };
    if (this.model.stochastic)
      addChoice(panel, "free light reads", reads, "expectation", (value) => this.setHard(value === "location"));
    const help = addElement("details", panel, "help");
    addElement("summary", help, "", "how to use this page");
    addElement("p", help, "", KEYS_HELP);
  }

  buildCards() {
    const card = (title) => {
      const item = addElement("li", this.cards, "card");
      addElement("h3", item, "", title);
      const [equations, body] = ["equations", "body"].map((name) => addElement("div", item, name));
      return { equations, body, numbers: addElement("p", item, "numbers") };
    };
    const bars = (to, name, text, kind, low = null, high = null) =>
      new Bars(to.body, SYMBOLS[name], text, low, high, (unit) => this.chooseUnit(kind, unit));
    const map = (to, name) => new RegionMap(to.body, this.data, this.grid, name, (region) => this.chooseRegion(region));
    const read = card("Read the word before"), scores = card("Score the regions"), weights = card("Weigh the regions");
    const image = card("Read the image"), beta = card("Gate the image"), gates = card("Open the LSTM's gates");
    const state = card("Remember"), output = card("Write the word");
    this.card = { read, scores, weights, image, beta, gates, state, output };
    this.bars = {
      Ey: [bars(read, "Ey", "embedding of the word before", "E"), "E"],
      hBefore: [bars(read, "hBefore", "state h before", "H", -1, 1), "H"],
      cBefore: [bars(read, "cBefore", "cell c before", "H"), "H"],
      z: [bars(image, "z", "context z", "D"), "D"],
      i: [bars(gates, "i", "input gate i", "H", 0, 1), "H"],
      f: [bars(gates, "f", "forget gate f", "H", 0, 1), "H"],
      o: [bars(gates, "o", "output gate o", "H", 0, 1), "H"],
      g: [bars(gates, "g", "modulator g", "H", -1, 1), "H"],
      c: [bars(state, "c", "cell c", "H"), "H"],
      h: [bars(state, "h", "state h", "H", -1, 1), "H"],
      deep: [bars(output, "deep", "deep output", "E"), "E"],
    };
    this.maps = { e: map(scores, "scores e"), alpha: map(weights, "weights alpha") };
    this.meter = addElement("div", addElement("div", beta.body, "meter"), "fill");
    this.words = addElement("ol", output.body, "words");
    this.words.setAttribute("aria-label", "the most probable words: choose one to write it");
  }

  // ---- what it shows ----

  show() {
    this.showCaption();
    this.showLight();
    this.showWords();
    this.showEquations();
    this.showRegion();
    this.showUnits();
    const { t, steps } = this, p = format(Math.exp(this.step.logProbabilities[this.step.next]));
    const place = `word ${t + 1} of ${steps.length}: ${this.text(this.step.next)}`, light = LIGHTS[this.lights[t].kind];
    this.position.textContent = place;
    this.status.textContent = `${place}, probability ${p}, light ${light}; caption: ${this.sentence(steps)}`;
  }

  text(word) {
    return this.model.words[word];
  }

  sentence(steps) {
    const words = steps.map((taken) => this.text(taken.next)).filter((word) => word !== this.text(END));
    return words.join(this.model.separator) + (steps[steps.length - 1].next === END ? "" : " …");
  }

  // The words that differ from the caption under free light are underlined, and marks stand over moved lights.
  showCaption() {
    const { steps, freeSteps, lights, chosen } = this;
    while (this.caption.children.length > steps.length) this.caption.lastChild.remove();
    steps.forEach((taken, t) => {
      const button = this.caption.children[t] || this.addWord(t), free = freeSteps[t];
      const mark = (MARKS[lights[t].kind] || "") + (chosen[t] === null ? "" : "✎");
      button.firstChild.textContent = mark;
      button.lastChild.textContent = this.text(taken.next);
      button.classList.toggle("changed", !free || free.next !== taken.next);
      button.classList.toggle("end", taken.next === END);
      button.tabIndex = t === this.t ? 0 : -1;
      button.setAttribute("aria-pressed", t === this.t);
      const moved = lights[t].kind === "free" ? "" : `, light ${LIGHTS[lights[t].kind]}`;
      button.setAttribute("aria-label", `${this.text(taken.next)}${moved}${chosen[t] === null ? "" : ", chosen by you"}`);
    });
    const isFree = lights.every((light) => light === FREE) && chosen.every((word) => word === null);
    this.free.textContent = `with free light: ${this.sentence(freeSteps)}`;
    this.greedy.style.visibility = isFree ? "visible" : "hidden"; // the other one keeps its place
    this.free.style.visibility = isFree ? "hidden" : "visible";
    this.resetButton.disabled = isFree;
    const { offsetTop, offsetHeight } = this.caption.children[this.t];
    this.caption.scrollTop = offsetTop - this.caption.offsetTop - (this.caption.clientHeight - offsetHeight) / 2;
  }

  addWord(t) {
    const button = addElement("button", this.caption, "word");
    addElement("span", button, "mark").setAttribute("aria-hidden", true);
    addElement("span", button);
    button.addEventListener("click", () => this.choose(t));
    return button;
  }

  showLight() {
    const light = this.lights[this.t];
    this.lightInputs[light.kind].checked = true;
    this.size.parentElement.classList.toggle("off", light.kind !== "spot");
    this.size.disabled = light.kind !== "spot";
    this.frame.classList.toggle("draggable", light.kind === "spot");
    paint(this.canvas, upsample(this.step.weights, this.grid));
    this.ring.hidden = light.kind !== "spot";
    if (light.kind !== "spot") return;
    Object.assign(this.spot, light.spot);
    this.size.value = light.spot.radius;
    const { first, step: pitch, size } = this.grid, { x, y, radius } = light.spot;
    this.ring.style.left = `${(100 * (first + x * pitch + 0.5)) / size}%`;
    this.ring.style.top = `${(100 * (first + y * pitch + 0.5)) / size}%`;
    this.ring.style.width = `${(200 * radius * pitch) / size}%`;
  }

  showWords() {
    const { logProbabilities, logits, next } = this.step;
    const order = Array.from(logProbabilities.keys()).sort((a, b) => logProbabilities[b] - logProbabilities[a]).slice(0, TOP);
    if (!order.includes(next)) order[TOP - 1] = next;
    const focused = this.words.contains(document.activeElement);
    this.words.replaceChildren();
    for (const word of order) {
      const button = addElement("button", addElement("li", this.words)), p = Math.exp(logProbabilities[word]);
      button.style.setProperty("--p", p);
      addText("span", button, "name", this.text(word));
      addElement("span", button, "number", format(p));
      button.setAttribute("aria-pressed", word === next);
      button.disabled = !mayWrite(word, this.t);
      button.title = button.disabled ? "never written here" : `logit ${format(logits[word])}`;
      button.addEventListener("click", () => this.writeWord(word));
    }
    if (focused) this.words.querySelector("[aria-pressed=true]").focus();
  }

  showEquations() {
    const { card, model, hard, t } = this, light = this.lights[t];
    const put = (name, equations) => {
      card[name].equations.replaceChildren();
      for (const [number, mathml] of equations) {
        const line = addElement("div", card[name].equations, "equation");
        addElement("span", line).innerHTML = mathml;
        if (number) addElement("span", line, "eq", `(${number})`);
      }
    };
    put("read", t ? [] : EQUATIONS.start());
    put("scores", EQUATIONS.scores(model));
    put("weights", EQUATIONS.weights(model));
    put("image", light.weights ? EQUATIONS.moved() : hard ? EQUATIONS.location() : EQUATIONS.expectation());
    for (const name of ["beta", "gates", "state", "output"]) put(name, EQUATIONS[name]());
  }

  say(card, text) {
    this.card[card].numbers.textContent = text;
  }

  // The numbers of the chosen region.
  showRegion() {
    const { step: now, region, grid } = this, here = describeRegion(region, grid);
    const e = format(now.e[region]), alpha = format(now.alpha[region]), weight = format(now.weights[region]);
    const moved = now.weights !== now.alpha;
    for (const [name, map] of Object.entries(this.maps)) map.show(now[name], region);
    this.cells.forEach((cell, n) => {
      cell.tabIndex = n === region ? 0 : -1;
      cell.classList.toggle("current", n === region);
      const numbers = `score ${format(now.e[n])}, weight ${format(now.weights[n])}`;
      cell.setAttribute("aria-label", `${describeRegion(n, grid)}: ${numbers}`);
    });
    this.readout.textContent = `region ${region + 1} (${here}): e ${e}, α ${alpha}${moved ? `, read with ${weight}` : ""}`;
    this.say("scores", `e = ${e} in ${here}`);
    const why = this.lights[this.t].weights ? "not used, since the light was moved" : "the most probable region alone is read";
    this.say("weights", `α = ${alpha} in ${here}${moved ? `; ${why}: ${weight} here` : ""}`);
  }

  // The numbers of the chosen unit of every vector, eq. 2 and 3 worked out for it, and the sums of the other cards.
  showUnits() {
    const { step: now, units } = this, j = units.H;
    const vectors = { ...now, hBefore: now.before.h, cBefore: now.before.c };
    for (const [name, [bars, kind]] of Object.entries(this.bars)) bars.show(vectors[name], units[kind]);
    this.meter.style.width = `${100 * now.beta}%`;
    this.say("read", `y = “${this.text(now.word)}”${this.t ? "" : "; the state comes from the mean of the regions"}`);
    this.say("image", `z[${units.D + 1}] = ${format(now.z[units.D])}`);
    this.say("beta", `β = σ(${format(now.fBeta)}) = ${format(now.beta)}`);
    const [i, f, o, g, c, h] = ["i", "f", "o", "g", "c", "h"].map((name) => format(now[name][j]));
    this.say("gates", `unit ${j + 1}: i = ${i}, f = ${f}, o = ${o}, g = ${g}`);
    const bracket = (text) => text.replace(/^−.*/, "($&)"), cBefore = bracket(format(now.before.c[j]));
    const sum = `${f} · ${cBefore} + ${i} · ${bracket(g)}`;
    this.say("state", `unit ${j + 1}: c = ${sum} = ${c}; h = ${o} · tanh ${bracket(c)} = ${h}`);
    const [word, state, image, bias] = logitAddends(this.model, now, now.next).map((x) => bracket(format(x)));
    const addends = `${word} by the word before + ${state} by the state + ${image} by the image + ${bias} bias`;
    this.say("output", `logit of “${this.text(now.next)}”: ${format(now.logits[now.next])} = ${addends}`);
  }
}
