// The browser's half of MemoryMap: draws cells, asks for others, shows text. It knows nothing
// of pages; memorymap.py says what messages there are. One file, no build step.

const LEFT = 122, RIGHT = 196, NARROW = 640, HEIGHT = 420, OVERVIEW = 14, PADDING = 10;
const CELL = 8, ROW = 11, LARGER = 1.5, MOST_LARGER = 4;
const NOTHING = 255, OUTSIDE = 254, FOLD = 1, BEGIN = 2, CHANGED = 4;
const FAINTEST = 0.4, BLINKS = 4, BLINK_MS = 550, HOVER_MS = 60, NOTCH = 100;
const INK = "#222222", FAINT = "#666666", RING = "#000000";

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function rgb(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// One string for each code and each of 16 degrees of being full.
function shades(colours, ground) {
  return colours.map((colour) => Array.from({ length: 17 }, (_, k) => {
    const weight = FAINTEST + (1 - FAINTEST) * (k / 16);
    const mixed = rgb(colour).map((c, i) => Math.round(weight * c + (1 - weight) * rgb(ground)[i]));
    return `rgb(${mixed})`;
  }));
}

// Pages in a cell at a level: 1, 2, 3, 4, 6, 8, 12, 16 and so on.
function pagesOf(level) {
  if (level < 1) return 1;
  return level % 2 ? 2 ** ((level + 1) / 2) : 3 * 2 ** (level / 2 - 1);
}

class MapView {
  constructor(model, el) {
    Object.assign(this, { model, el, level: 0, first: 0, cells: null, busy: false, stale: false });
    Object.assign(this, { asked: 0, answers: 0, hover: null, cursor: null, pin: null, drag: null });
    Object.assign(this, { notches: 0, blinkFrom: 0, overview: null, told: "", heldText: "" });
    this.build();
    this.listen();
    this.resize();
    this.about(true);
    model.send({ type: "opened" });
  }

  // -- parts -----------------------------------------------------------------------------------

  build() {
    this.process = make("select", { title: "process", "aria-label": "process" });
    this.space = make("select", { title: "space", "aria-label": "space" });
    this.color = make("select", { title: "colour by", "aria-label": "colour by" });
    for (const name of ["virtual", "physical"]) this.space.append(new Option(`${name} memory`, name));
    this.buttons = {
      out: make("button", { title: "zoom out (-)", "aria-label": "zoom out" }, "−"),
      in: make("button", { title: "zoom in (+)", "aria-label": "zoom in" }, "+"),
      fit: make("button", { title: "show all (Home)", "aria-label": "show all" }, "all"),
    };
    this.live = make("input", { type: "checkbox" });
    this.scale = make("span", { class: "pagemap-scale" });
    this.title = make("div", { class: "pagemap-title" });
    this.strip = make("canvas", { class: "pagemap-strip", "aria-hidden": "true" });
    this.canvas = make("canvas", {
      class: "pagemap-cells", tabindex: "0", role: "application",
      "aria-label": "Map of memory. Arrows move, plus and minus zoom, Enter pins, Escape lets go, "
        + "Home shows all.",
    });
    this.legend = make("div", { class: "pagemap-legend" });
    this.text = make("div", { class: "pagemap-told", "aria-live": "polite" });
    const live = make("label", { title: "look again every second" }, this.live, " live");
    const bar = make("div", { class: "pagemap-bar" }, this.process, this.space, this.color,
      ...Object.values(this.buttons), live, this.scale);
    this.root = make("div", { class: "pagemap" }, bar, this.title, this.strip, this.canvas,
      this.legend, this.text);
    this.el.append(this.root);
  }

  listen() {
    const { model, canvas } = this;
    const pick = (name, node, read) => node.addEventListener("change", () => {
      model.set(name, read(node));
      model.save_changes();
    });
    pick("pid", this.process, (node) => Number(node.value));
    pick("space", this.space, (node) => node.value);
    pick("color", this.color, (node) => node.value);
    pick("live", this.live, (node) => node.checked);
    this.buttons.in.addEventListener("click", () => this.zoom(-1));
    this.buttons.out.addEventListener("click", () => this.zoom(1));
    this.buttons.fit.addEventListener("click", () => this.fit());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.leave());
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    this.strip.addEventListener("pointerdown", (event) => this.jump(event));
    this.onAbout = () => this.about(false);
    this.onLive = () => { this.live.checked = model.get("live"); };
    this.onMessage = (message, buffers) => this.receive(message, buffers);
    model.on("change:_about", this.onAbout);
    model.on("change:live", this.onLive);
    model.on("msg:custom", this.onMessage);
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.root);
  }

  end() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
    clearTimeout(this.waiting);
    this.model.off("change:_about", this.onAbout);
    this.model.off("change:live", this.onLive);
    this.model.off("msg:custom", this.onMessage);
    this.model.send({ type: "closed" });
  }

  // -- what is shown ---------------------------------------------------------------------------

  about(opening) {
    const said = this.model.get("_about");
    if (!said.epoch) return;
    const fitted = this.length !== undefined && this.level === this.fitting() && this.first === 0;
    Object.assign(this, { said, length: said.length });
    this.shades = shades(said.legend.map((one) => one.colour), said.ground);
    this.fill();
    if (opening || said.moved) {
      this.overview = this.cursor = this.pin = this.cells = null;
      this.heldText = "";
      this.fit();
    } else if (fitted && this.level !== this.fitting()) {
      this.fit();
    } else if (!said.pushed) {
      this.overview = null;
      this.ask();
    }
  }

  fill() {
    const { said, model } = this;
    this.title.textContent = said.title;
    this.process.replaceChildren(...said.processes.map(([pid, name]) => new Option(name, pid)));
    this.process.value = model.get("pid");
    this.space.value = model.get("space");
    this.process.disabled = model.get("space") !== "virtual";
    this.color.replaceChildren(...said.colors.map((name) => new Option(`colour: ${name}`, name)));
    this.color.value = model.get("color");
    this.live.checked = model.get("live");
    const swatch = (colour, words) => make("span", {},
      make("i", { style: `background:${colour}` }), words);
    const shown = said.legend.filter((one) => one.bytes);
    this.legend.replaceChildren(
      make("b", {}, said.legend_title),
      ...shown.map((one) => swatch(one.colour, `${one.name}: ${one.size}`)),
      swatch(said.ground, said.ground_name),
    );
    this.say(said.message);
  }

  say(text) {
    this.text.textContent = text || this.heldText
      || "Hover to read, click to pin, wheel to zoom, drag to move.";
  }

  // -- geometry --------------------------------------------------------------------------------

  resize() {
    const width = Math.max(Math.floor(this.root.clientWidth) - 2 * PADDING, 320);
    if (width === this.width) return;
    this.width = width;
    const ratio = window.devicePixelRatio || 1;
    for (const [node, height] of [[this.canvas, HEIGHT], [this.strip, OVERVIEW]]) {
      Object.assign(node, { width: width * ratio, height: height * ratio });
      Object.assign(node.style, { width: `${width}px`, height: `${height}px` });
      node.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    if (this.said) {
      this.level = Math.min(this.level, this.fitting());
      this.overview = null;
      this.ask();
    }
  }

  // Room for the names of mappings.
  get right() {
    const named = this.width >= NARROW && this.model.get("space") === "virtual";
    return named ? RIGHT : 8;
  }

  // Cells of a level: pages in each, size, how many across and down. Below level 0 a cell is a
  // page, and only grows.
  grid(level = this.level) {
    const grown = LARGER ** Math.max(-level, 0);
    const wide = Math.round(CELL * grown), high = Math.round(ROW * grown);
    const columns = Math.max(Math.floor((this.width - LEFT - this.right) / wide), 4);
    const rows = Math.max(Math.floor((HEIGHT - 4) / high), 2);
    return { per: pagesOf(level), wide, high, columns, rows, count: columns * rows };
  }

  fitting() {
    let level = 0;
    while (this.grid(level).per * this.grid(level).count < this.length) level += 1;
    return level;
  }

  // The cell under a place on the canvas, or null in the gutters.
  at(x, y, grid = this.grid()) {
    const column = Math.floor((x - LEFT) / grid.wide), row = Math.floor((y - 2) / grid.high);
    if (column < 0 || row < 0 || column >= grid.columns || row >= grid.rows) return null;
    return row * grid.columns + column;
  }

  clamp(first, grid) {
    const behind = Math.ceil(this.length / grid.per / grid.columns) * grid.columns * grid.per;
    const most = Math.max(behind - grid.count * grid.per, 0);
    return Math.min(Math.max(Math.floor(first / grid.per) * grid.per, 0), most);
  }

  // -- moving ----------------------------------------------------------------------------------

  fit() {
    Object.assign(this, { level: this.fitting(), first: 0 });
    this.ask();
  }

  // Zoom by some levels and keep what is under (x, y), or under the cursor, where it is.
  zoom(steps, x, y) {
    const level = Math.min(Math.max(this.level + steps, -MOST_LARGER), this.fitting());
    if (level === this.level) return false;
    const old = this.grid(), grid = this.grid(level);
    let cell = x === undefined ? null : this.at(x, y, old);
    let place = cell === null ? null : this.at(x, y, grid);
    if (cell === null && this.cursor !== null) {
      cell = Math.floor((this.cursor - this.first) / old.per);
      place = null;
    }
    if (cell === null || cell < 0 || cell >= old.count) cell = Math.floor(old.count / 2);
    if (place === null) {
      const middle = Math.floor(grid.rows / 2) * grid.columns;
      place = Math.round(middle + (cell % old.columns) * (grid.columns / old.columns));
    }
    // The middle of the cell, so that going in and out again comes back.
    const spot = this.first + (cell + 0.5) * old.per;
    this.level = level;
    this.first = this.clamp(spot - place * grid.per, grid);
    this.ask();
    return true;
  }

  pan(cells) {
    const grid = this.grid();
    this.first = this.clamp(this.first + cells * grid.per, grid);
    this.ask();
  }

  wheel(event) {
    const unit = event.deltaMode === 1 ? 33 : event.deltaMode === 2 ? 400 : 1;
    this.notches += event.deltaY * unit;
    const steps = Math.trunc(this.notches / NOTCH);
    this.notches -= steps * NOTCH;
    const moved = steps ? this.zoom(steps, event.offsetX, event.offsetY) : true;
    if (moved) event.preventDefault(); // at the ends the page scrolls on
  }

  down(event) {
    if (event.button) return;
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { x: event.offsetX, y: event.offsetY, first: this.first, moved: false };
  }

  move(event) {
    const { drag } = this;
    if (!drag) return this.hovering(this.at(event.offsetX, event.offsetY));
    const grid = this.grid();
    const across = event.offsetX - drag.x, along = event.offsetY - drag.y;
    if (Math.hypot(across, along) > 4) drag.moved = true;
    if (!drag.moved) return undefined;
    const cells = Math.round(along / grid.high) * grid.columns + Math.round(across / grid.wide);
    const first = this.clamp(drag.first - cells * grid.per, grid);
    if (first !== this.first) {
      this.first = first;
      this.ask();
    }
    return undefined;
  }

  up(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag || drag.moved) return;
    const cell = this.at(event.offsetX, event.offsetY);
    if (cell !== null) this.pinned(cell, event.shiftKey);
  }

  leave() {
    this.hover = null;
    clearTimeout(this.waiting);
    this.say("");
    this.draw();
  }

  jump(event) {
    const grid = this.grid();
    const share = (event.offsetX - LEFT) / (this.width - LEFT - this.right);
    this.first = this.clamp(share * this.length - (grid.count * grid.per) / 2, grid);
    this.ask();
  }

  hovering(cell) {
    if (cell === this.hover) return;
    this.hover = cell;
    this.draw();
    if (cell !== null) this.wonder(this.first + cell * this.grid().per);
  }

  key(event) {
    const grid = this.grid();
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -grid.columns, ArrowDown: grid.columns,
      PageUp: -grid.count, PageDown: grid.count,
    }[event.key];
    if (steps) this.step(steps * grid.per);
    else if (event.key === "+" || event.key === "=") this.zoom(-1);
    else if (event.key === "-" || event.key === "_") this.zoom(1);
    else if (event.key === "Home") this.fit();
    else if (event.key === "Escape") this.release();
    else if ((event.key === "Enter" || event.key === " ") && this.cursor !== null) {
      this.pinned(Math.floor((this.cursor - this.first) / grid.per), event.shiftKey);
    } else return;
    event.preventDefault();
    event.stopPropagation(); // the notebook has its own use for these keys
  }

  step(pages) {
    const grid = this.grid();
    const from = this.cursor === null ? this.first - pages : this.cursor;
    this.cursor = Math.min(Math.max(from + pages, 0), Math.max(this.length - 1, 0));
    this.cursor -= this.cursor % grid.per;
    const cell = Math.floor((this.cursor - this.first) / grid.per);
    if (cell < 0) this.pan(Math.floor(cell / grid.columns) * grid.columns);
    else if (cell >= grid.count) {
      this.pan((Math.floor((cell - grid.count) / grid.columns) + 1) * grid.columns);
    }
    this.draw();
    this.wonder(this.cursor);
  }

  pinned(cell, on) {
    const { per } = this.grid();
    const first = this.first + cell * per, stop = Math.min(first + per, this.length);
    if (first >= this.length) return;
    this.cursor = first;
    this.pin = on && this.pin
      ? { first: Math.min(this.pin.first, first), stop: Math.max(this.pin.stop, stop) }
      : { first, stop };
    this.model.send({ type: "pin", ...this.pin });
    this.pinAsked = ++this.asked;
    this.model.send({
      type: "tell", id: this.pinAsked, first: this.pin.first, count: this.pin.stop - this.pin.first,
    });
    this.draw();
  }

  release() {
    this.pin = null;
    this.heldText = "";
    this.model.send({ type: "pin" });
    this.say("");
    this.draw();
  }

  // -- messages --------------------------------------------------------------------------------

  // One question at a time; what was asked for meanwhile is asked when the answer is there.
  ask() {
    if (!this.said || !this.width) return;
    this.draw();
    if (this.busy) {
      this.stale = true;
      return;
    }
    const { per, columns, rows } = this.grid();
    this.busy = true;
    this.model.send({ type: "cells", id: ++this.asked, first: this.first, per, columns, rows });
  }

  wonder(first) {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => {
      this.wondered = ++this.asked;
      this.model.send({ type: "tell", id: this.wondered, first, count: this.grid().per });
    }, HOVER_MS);
  }

  receive(message, buffers) {
    if (message.type === "cells") this.answer(message, buffers[0]);
    else if (message.type === "said") {
      this.busy = false;
      this.say(message.text);
    } else if (message.type === "told" && message.id === this.pinAsked) {
      this.heldText = `Pinned: ${message.text}`;
      this.say("");
    } else if (message.type === "told" && message.id === this.wondered) {
      if (message.text) this.say(message.text);
    }
  }

  answer(message, buffer) {
    const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    const count = message.columns * message.rows;
    const [code, full, mark] = [0, 1, 2].map((k) => bytes.subarray(k * count, (k + 1) * count));
    const { per, columns } = this.grid();
    if (message.id < 0 && message.per === per && message.columns === columns) {
      Object.assign(this, { first: message.first, length: message.length });
    }
    this.cells = { ...message, count, code, full, mark };
    if (message.first === 0 && message.per * count >= this.length) this.overview = this.cells;
    const fresh = message.id < 0 || this.drawn !== this.said.epoch; // not seen before
    this.drawn = this.said.epoch;
    if (fresh && mark.some((bits) => bits & CHANGED)) this.blink();
    if (message.id >= 0) this.busy = false;
    if (message.id >= 0 && this.stale) {
      this.stale = false;
      this.ask();
    }
    this.answers += 1;
    // For whoever watches from outside: what is drawn now.
    Object.assign(this.root.dataset, {
      answers: this.answers, first: message.first, per: message.per, length: this.length,
    });
    this.draw();
  }

  // -- drawing ---------------------------------------------------------------------------------

  blink() {
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    this.blinkFrom = performance.now();
    cancelAnimationFrame(this.frame);
    const next = () => {
      this.draw();
      if (performance.now() - this.blinkFrom < BLINKS * BLINK_MS) {
        this.frame = requestAnimationFrame(next);
      }
    };
    this.frame = requestAnimationFrame(next);
  }

  draw() {
    if (!this.said) return;
    const pen = this.canvas.getContext("2d"), grid = this.grid();
    pen.clearRect(0, 0, this.width, HEIGHT);
    this.scale.textContent = this.length
      ? `a cell is ${this.bytes(grid.per)}, the screen ${this.bytes(grid.per * grid.count)}` : "";
    if (this.cells) {
      this.drawCells(pen, grid);
      this.drawGutters(pen, grid);
    }
    if (this.pin) this.outline(pen, grid, this.pin.first, this.pin.stop, "#FFFFFF", 4);
    if (this.pin) this.outline(pen, grid, this.pin.first, this.pin.stop, RING, 2);
    if (this.hover !== null) this.box(pen, grid, this.hover, FAINT, 1);
    if (this.cursor !== null && document.activeElement === this.canvas) {
      this.box(pen, grid, Math.floor((this.cursor - this.first) / grid.per), RING, 2);
    }
    this.drawStrip(grid);
  }

  // Cells as last answered, where they are now: while an answer is awaited, the old one is shown.
  drawCells(pen, grid) {
    const { cells } = this;
    const sharp = grid.per === 1, gap = sharp ? 1 : 0;
    const since = performance.now() - this.blinkFrom;
    const blinking = since < BLINKS * BLINK_MS;
    const wave = blinking ? 0.75 * Math.sin((Math.PI * since) / BLINK_MS) ** 2 : 0;
    for (let cell = 0; cell < grid.count; cell += 1) {
      const spot = this.first + cell * grid.per;
      const old = Math.floor((spot - cells.first) / cells.per);
      if (old < 0 || old >= cells.count || cells.code[old] === OUTSIDE || spot >= this.length) continue;
      const x = LEFT + (cell % grid.columns) * grid.wide;
      const y = 2 + Math.floor(cell / grid.columns) * grid.high;
      const wide = grid.wide - gap, high = grid.high - 1;
      const code = cells.code[old];
      pen.fillStyle = code === NOTHING ? this.said.ground
        : (this.shades[code] || [])[Math.ceil(cells.full[old] / 16)] || this.said.ground;
      pen.fillRect(x, y, wide, high);
      if (cells.mark[old]) this.drawMark(pen, cells.mark[old], x, y, wide, high, wave, grid);
    }
  }

  drawMark(pen, mark, x, y, wide, high, wave, grid) {
    if (mark & CHANGED) {
      pen.fillStyle = `rgba(0,0,0,${wave})`;
      if (wave) pen.fillRect(x, y, wide, high);
      pen.fillStyle = INK;
      pen.fillRect(x, y + high - 2, wide, 2);
    }
    if (mark & FOLD && grid.per < 8) {
      pen.fillStyle = INK;
      pen.fillRect(x - 1, y, 2, Math.ceil(high / 2));
    } else if (mark & BEGIN) {
      pen.fillStyle = "#FFFFFF";
      pen.fillRect(x - 1, y, 2, high);
      pen.fillStyle = INK;
      pen.fillRect(x, y, 1, high);
    }
  }

  drawGutters(pen, grid) {
    const { cells } = this;
    if (cells.columns !== grid.columns || cells.first !== this.first || cells.per !== grid.per) return;
    const every = Math.max(Math.ceil(14 / grid.high), 1);
    pen.textBaseline = "middle";
    pen.textAlign = "right";
    pen.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
    pen.fillStyle = FAINT;
    for (let row = 0; row < cells.rows; row += every) {
      pen.fillText(cells.addresses[row], LEFT - 8, 2 + (row + 0.5) * grid.high);
    }
    if (this.right < RIGHT) return;
    pen.textAlign = "left";
    pen.font = "11px system-ui, 'DejaVu Sans', sans-serif";
    pen.fillStyle = INK;
    let free = -99;
    for (const [row, name] of cells.labels) {
      const y = 2 + (row + 0.5) * grid.high;
      if (y - free < 12) continue;
      pen.fillText(name, this.width - this.right + 8, y, this.right - 12);
      free = y;
    }
  }

  box(pen, grid, cell, colour, line) {
    if (cell < 0 || cell >= grid.count) return;
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    const x = LEFT + (cell % grid.columns) * grid.wide;
    const y = 2 + Math.floor(cell / grid.columns) * grid.high;
    pen.strokeRect(x - 0.5, y - 0.5, grid.wide, grid.high);
  }

  outline(pen, grid, first, stop, colour, line) {
    const from = Math.max(Math.floor((first - this.first) / grid.per), 0);
    const to = Math.min(Math.ceil((stop - this.first) / grid.per), grid.count);
    pen.strokeStyle = colour;
    pen.lineWidth = line;
    for (let at = from; at < to;) {
      const row = Math.floor(at / grid.columns), end = Math.min((row + 1) * grid.columns, to);
      pen.strokeRect(LEFT + (at % grid.columns) * grid.wide - 0.5, 1.5 + row * grid.high,
        (end - at) * grid.wide, grid.high);
      at = end;
    }
  }

  // The whole line in one row, and a frame around what is on the screen.
  drawStrip(grid) {
    const pen = this.strip.getContext("2d"), all = this.overview;
    const wide = this.width - LEFT - this.right;
    pen.clearRect(0, 0, this.width, OVERVIEW);
    if (!all || !this.length) return;
    for (let x = 0; x < wide; x += 1) {
      const cell = Math.floor((x / wide) * (this.length / all.per));
      const code = all.code[cell];
      pen.fillStyle = code >= OUTSIDE ? this.said.ground
        : (this.shades[code] || [])[Math.ceil(all.full[cell] / 16)] || this.said.ground;
      pen.fillRect(LEFT + x, 3, 1, OVERVIEW - 6);
    }
    const from = (this.first / this.length) * wide;
    const size = Math.min((grid.per * grid.count) / this.length, 1) * wide;
    pen.strokeStyle = RING;
    pen.lineWidth = 2;
    pen.strokeRect(LEFT + Math.min(from, wide - 3), 1, Math.max(Math.min(size, wide - from), 3),
      OVERVIEW - 2);
  }

  bytes(pages) {
    let size = pages * this.said.page_size, unit = 0;
    while (size >= 1024 && unit < 5) [size, unit] = [size / 1024, unit + 1];
    const shown = size >= 100 || size === Math.floor(size) ? Math.round(size) : size.toFixed(1);
    return `${shown} ${["B", "KiB", "MiB", "GiB", "TiB", "PiB"][unit]}`;
  }
}

export default {
  render({ model, el }) {
    const view = new MapView(model, el);
    return () => view.end();
  },
};
