// The page: a side for each of two runs, with a map of the codes, the image at a point, and a slider for each latent.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const shared = read("shared");
const [channels, height, width] = shared.shape;
const n_pixels = channels * height * width;
const images = bytes(shared.images);
const n_images = shared.indices.length;
const picked = new Set(); // classes that are picked out; none is all
const sides = [];
const opened_runs = new Map();

const [DOT, REACH, STEP] = [2.7, 4, 12]; // pixels: of a dot; what a click may move; of an arrow key
const SMALL = 8; // pixels: an ellipse that reaches less far is hardly seen
const SLOW = 25; // milliseconds: an ellipse that takes longer waits until the point rests
const number = (value) => value.toFixed(Math.abs(value) < 10 ? 2 : 1).replace(/^-(0.00)?/, (_, zero) => zero ?? "−");
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

function className(image) {
  return shared.labels ? shared.classes[shared.labels[image]] : "";
}

// What a run's JSON says, with its codes in the plane of the map and the extent of each latent.
function openRun(index) {
  if (opened_runs.has(index)) return opened_runs.get(index);
  const run = { ...read(`run-${index}`), ...shared.runs[index] };
  run.codes = floats(run.codes);
  run.decoder = run.decoder && openDecoder(run.decoder);
  run.ellipses = run.ellipses && floats(run.ellipses);
  if (run.grid) run.grid.images = bytes(run.grid.images);
  run.code = (i) => run.codes.subarray(i * run.d, (i + 1) * run.d);
  run.points = Array.from({ length: n_images }, (_, i) => inPlane(run, run.code(i)));
  const [low, high] = [0.005, 0.995].map((q) => [0, 1].map((k) => quantile(run.points.map((u) => u[k]), q)));
  if (run.d === 1) spreadLanes(run, low, high);
  run.extent = { low, high };
  run.latents = Array.from({ length: run.d }, (_, j) => latent(run, j)).sort((a, b) => b.sd - a.sd);
  opened_runs.set(index, run);
  return run;
}

// One latent has no second axis: a lane for each class.
function spreadLanes(run, low, high) {
  const lane = (high[0] - low[0]) / (3 * Math.max(1, shared.classes.length));
  run.points.forEach((u, i) => (u[1] = lane * (shared.classes.length / 2 - (shared.labels?.[i] ?? 0))));
  [low[1], high[1]] = [(-lane * shared.classes.length) / 2, (lane * shared.classes.length) / 2];
}

function latent(run, j) {
  let [low, high, sum, squares] = [Infinity, -Infinity, 0, 0];
  for (let i = 0; i < n_images; i++) {
    const value = run.codes[i * run.d + j];
    [low, high] = [Math.min(low, value), Math.max(high, value)];
    [sum, squares] = [sum + value, squares + value * value];
  }
  const room = 0.15 * (high - low) + 1e-6;
  const least = run.prior ? 3 : 0; // of N(0, 1), standard deviations
  return {
    j,
    sd: Math.sqrt(Math.max(0, squares / n_images - (sum / n_images) ** 2)),
    low: Math.min(low - room, -least),
    high: Math.max(high + room, least),
  };
}

function quantile(values, q) {
  return [...values].sort((a, b) => a - b)[Math.round(q * (values.length - 1))];
}

function inPlane(run, z) {
  return run.axes.map((axis) => axis.reduce((sum, value, j) => sum + value * (z[j] - run.origin[j]), 0));
}

function nearest(run, z) {
  let [best, least] = [0, Infinity];
  for (let i = 0, k = 0; i < n_images; i++) {
    let squared = 0;
    for (let j = 0; j < run.d; j++, k++) squared += (run.codes[k] - z[j]) ** 2;
    if (squared < least) [best, least] = [i, squared];
  }
  return best;
}

// The image at z: computed, or of the nearest point of the grid; grey values from 0 to 255.
function imageAt(run, z) {
  if (run.decoder) return decode(run.decoder, z).map((value) => 255 * value);
  const { low, high, side, images: decoded } = run.grid;
  const [x, y] = inPlane(run, z).map((u, k) => {
    const at = Math.round(((u - low[k]) / (high[k] - low[k])) * (side - 1));
    return Math.min(Math.max(at, 0), side - 1);
  });
  const start = (y * side + x) * n_pixels;
  return decoded.subarray(start, start + n_pixels);
}

function paint(canvas, image) {
  canvas.width = width;
  canvas.height = height;
  const area = height * width;
  const pixels = new ImageData(width, height);
  for (let p = 0; p < area; p++) {
    for (let c = 0; c < 3; c++) pixels.data[4 * p + c] = image[channels === 3 ? c * area + p : p];
    pixels.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

class Side {
  constructor(index) {
    this.element = document.getElementById("side").content.firstElementChild.cloneNode(true);
    this.find = (selector) => this.element.querySelector(selector);
    this.map = this.find(".map canvas");
    this.back = make("canvas", {});
    this.pointers = new Map();
    this.held = false;
    document.getElementById("sides").append(this.element);
    this.choices();
    this.open(index);
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.map);
  }

  choices() {
    const select = this.find("select");
    shared.runs.forEach((run, i) => select.append(make("option", { value: i, textContent: run.name })));
    select.disabled = shared.runs.length < 2;
    select.addEventListener("change", () => {
      const { image } = this;
      this.open(Number(select.value));
      this.take(image);
    });
  }

  open(index) {
    const run = (this.run = openRun(index));
    this.find("select").value = index;
    this.find(".about").textContent = run.about;
    this.map.setAttribute("aria-label", `Map of the images' codes in ${run.name}. Arrow keys move the point.`);
    this.find(".reconstruction").hidden = !run.decoder;
    const sliders = this.find(".sliders");
    const free = run.decoder ? run.latents : [];
    sliders.replaceChildren(...free.map((of) => this.slider(of)));
    this.find(".latents").hidden = !free.length;
    this.find(".latents").open = (run.d > 2 || shared.runs.length < 2) && innerWidth > 700;
    this.find("summary").textContent = run.d > 2 ? `All ${run.d} latents, widest first` : "Latents";
    this.z = Float64Array.from(run.code(0));
    this.image = 0;
    this.fit();
  }

  slider({ j, low, high }) {
    const label = make("label", {});
    const input = make("input", { type: "range", min: low, max: high, step: (high - low) / 200 });
    input.dataset.latent = j;
    input.addEventListener("input", () => {
      this.held = true;
      this.z[j] = Number(input.value);
      this.moved();
    });
    const name = make("span", { textContent: "z" });
    name.append(make("sub", { textContent: j + 1 }));
    label.append(name, input, make("output", {}));
    return label;
  }

  // --- where the point is

  moveTo([x, y]) {
    const [u, v] = inPlane(this.run, this.z);
    const [first, second] = this.run.axes;
    this.z = this.z.map((value, j) => value + (x - u) * first[j] + (y - v) * second[j]);
    this.moved();
  }

  // To the code of an image.
  take(image) {
    this.z = Float64Array.from(this.run.code(image));
    this.moved(image);
  }

  moved(image = nearest(this.run, this.z)) {
    this.image = image;
    this.linked = false;
    for (const other of sides) {
      if (other === this) continue;
      other.z = Float64Array.from(other.run.code(image));
      other.image = image;
      other.linked = true;
      other.held = false;
    }
    draw();
  }

  // --- the map: a pixel is at (u - centre) scale from its middle

  fit() {
    const { low, high } = this.run.extent;
    this.centre = [0, 1].map((k) => (low[k] + high[k]) / 2);
    const spans = [0, 1].map((k) => 1.2 * (high[k] - low[k]) + 1e-9);
    this.scale = Math.min(this.map.clientWidth / spans[0], this.map.clientHeight / spans[1]);
    this.changed = true;
    draw();
  }

  resize() {
    const before = this.size;
    this.size = [this.map.clientWidth, this.map.clientHeight];
    this.density = devicePixelRatio;
    for (const canvas of [this.map, this.back]) {
      [canvas.width, canvas.height] = this.size.map((length) => Math.round(length * this.density));
    }
    if (before) this.scale *= Math.min(...this.size.map((length, k) => length / before[k]));
    else this.fit();
    this.changed = true;
    draw();
  }

  toPixel([x, y]) {
    const [wide, tall] = this.size;
    return [wide / 2 + (x - this.centre[0]) * this.scale, tall / 2 - (y - this.centre[1]) * this.scale];
  }

  toPlane([x, y]) {
    const [wide, tall] = this.size;
    return [this.centre[0] + (x - wide / 2) / this.scale, this.centre[1] - (y - tall / 2) / this.scale];
  }

  zoom(factor, at = this.size.map((length) => length / 2)) {
    const there = this.toPlane(at);
    this.scale *= factor;
    const now = this.toPlane(at);
    this.centre = this.centre.map((value, k) => value + there[k] - now[k]);
    this.changed = true;
    draw();
  }

  pan(dx, dy) {
    this.centre = [this.centre[0] - dx / this.scale, this.centre[1] + dy / this.scale];
    this.changed = true;
    draw();
  }

  nearestDot(at) {
    const distances = this.run.points.map((point) => {
      const [x, y] = this.toPixel(point);
      return (x - at[0]) ** 2 + (y - at[1]) ** 2;
    });
    return distances.indexOf(Math.min(...distances));
  }

  listen() {
    const { map, pointers } = this;
    map.addEventListener("pointerdown", (event) => {
      map.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { from: here(event), at: here(event), dragged: false });
    });
    map.addEventListener("pointermove", (event) => {
      const at = here(event);
      const pointer = pointers.get(event.pointerId);
      if (!pointer) {
        if (!this.held) this.moveTo(this.toPlane(at));
        return;
      }
      const before = pointer.at;
      pointer.at = at;
      pointer.dragged ||= Math.hypot(at[0] - pointer.from[0], at[1] - pointer.from[1]) > REACH;
      if (pointers.size === 2) this.pinch(pointer, before);
      else if (!pointer.dragged) return;
      else if (event.pointerType === "mouse") this.pan(at[0] - before[0], at[1] - before[1]);
      else this.moveTo(this.toPlane(at));
    });
    map.addEventListener("pointerup", (event) => {
      const pointer = pointers.get(event.pointerId);
      pointers.delete(event.pointerId);
      if (!pointer || pointer.dragged) return;
      if (event.pointerType === "mouse" && this.held) {
        this.held = false;
        this.moveTo(this.toPlane(pointer.at));
        return;
      }
      this.held = event.pointerType === "mouse";
      this.take(this.nearestDot(pointer.at));
    });
    map.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
    map.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-0.0015 * event.deltaY), here(event));
      },
      { passive: false },
    );
    map.addEventListener("keydown", (event) => this.key(event));
    const [closer, further, all] = this.element.querySelectorAll(".zoom button");
    closer.addEventListener("click", () => this.zoom(1.4));
    further.addEventListener("click", () => this.zoom(1 / 1.4));
    all.addEventListener("click", () => this.fit());
  }

  pinch(pointer, before) {
    const other = [...this.pointers.values()].find((one) => one !== pointer);
    other.dragged = true; // lifting it is no tap
    const distance = (p) => Math.hypot(p[0] - other.at[0], p[1] - other.at[1]);
    const middle = [0, 1].map((k) => (pointer.at[k] + other.at[k]) / 2);
    this.pan((pointer.at[0] - before[0]) / 2, (pointer.at[1] - before[1]) / 2);
    this.zoom(distance(pointer.at) / Math.max(1, distance(before)), middle);
  }

  key(event) {
    const step = (event.shiftKey ? 4 : 1) * STEP;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const does = {
      "+": () => this.zoom(1.4),
      "=": () => this.zoom(1.4),
      "-": () => this.zoom(1 / 1.4),
      0: () => this.fit(),
      Enter: () => this.take(this.image),
    };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (moves[event.key]) {
      const at = this.toPixel(inPlane(this.run, this.z)).map((value, k) => value + moves[event.key][k]);
      this.held = true;
      this.moveTo(this.toPlane(at));
      const outside = at.map((value, k) => Math.min(0, value - 20) + Math.max(0, value + 20 - this.size[k]));
      if (outside[0] || outside[1]) this.pan(-outside[0], -outside[1]);
    } else if (does[event.key]) does[event.key]();
    else return;
    event.preventDefault();
  }

  // --- drawing

  draw() {
    if (!this.size) return;
    const { run, z, image } = this;
    if (this.changed) this.drawBack();
    this.changed = false;
    const context = this.map.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.map.width, this.map.height);
    context.drawImage(this.back, 0, 0);
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    const theme = colours();
    const own = shared.labels ? shared.colours[shared.labels[image]] : run.colour;
    dot(context, this.toPixel(run.points[image]), own, theme);
    const at = inPlane(run, z);
    if (run.d === 1) at[1] = run.points[image][1];
    cross(context, this.toPixel(at), theme);
    this.reach = this.drawEllipses(context);
    paint(this.find(".decoded canvas"), imageAt(run, z));
    if (this.painted?.run !== run || this.painted.image !== image) {
      this.painted = { run, image };
      paint(this.find(".image canvas"), images.subarray(image * n_pixels, (image + 1) * n_pixels));
      if (run.decoder) paint(this.find(".reconstruction canvas"), imageAt(run, run.code(image)));
    }
    this.say();
  }

  say() {
    const { run, z, image } = this;
    const of = className(image);
    this.find(".decoded figcaption").textContent = this.linked ? "Decoded at that code" : "Decoded at the point";
    this.find(".image figcaption").textContent = `Nearest image${of ? `: ${of}` : ""}`;
    this.find(".note").textContent = [this.where(), this.ellipseInWords(), this.gridInWords()].filter(Boolean).join(" ");
    for (const label of this.find(".sliders").children) {
      const [, input, output] = label.children;
      const value = z[input.dataset.latent];
      input.value = value;
      output.textContent = number(value);
      input.setAttribute("aria-valuetext", number(value));
    }
    this.element.classList.toggle("held", this.held);
  }

  where() {
    const { run, z } = this;
    const at = run.d > 2 ? inPlane(run, z) : z;
    return `At ${Array.from(at, number).join(", ")}${run.d > 2 ? " of the plane" : ""}.`;
  }

  ellipseInWords() {
    const { run } = this;
    if (!run.ellipses && !run.decoder?.information) {
      return run.posterior ? "The posterior's covariance is not known, so no ellipse." : "This model has no posterior, so no ellipse.";
    }
    const whose = run.ellipses ? "of the nearest image, by its encoder" : "at the point, by the decoder's information";
    const small = this.reach < SMALL ? " They are small here: zoom in." : "";
    return `Ellipses: 1σ and 2σ of the posterior ${whose}.${small}`;
  }

  gridInWords() {
    const { grid } = this.run;
    return grid ? `Decoded beforehand at ${grid.side} × ${grid.side} points of this plane; the nearest is shown.` : "";
  }

  // [xx, xy, yy] in the plane and where it is centred; null where there is none, or not yet.
  covariance() {
    const { run, z, image } = this;
    if (run.ellipses) return { centre: run.points[image], of: run.ellipses.subarray(3 * image, 3 * image + 3) };
    if (!run.decoder?.information) return null;
    const key = z.join();
    if (this.known?.key !== key || this.known.run !== run) {
      if (run.cost > SLOW && !this.resting) {
        clearTimeout(this.waiting);
        this.waiting = setTimeout(() => {
          this.resting = true;
          this.draw();
          this.resting = false;
        }, 150);
        return null;
      }
      const start = performance.now();
      this.known = { key, run, of: projectedCovariance(precision(run.decoder, z), run.axes) };
      run.cost = performance.now() - start;
    }
    const centre = inPlane(run, z);
    if (run.d === 1) centre[1] = run.points[image][1];
    return { centre, of: this.known.of };
  }

  // How far they reach, in pixels.
  drawEllipses(context) {
    const found = this.covariance();
    if (!found) return Infinity;
    const [xx, xy, yy] = found.of;
    const [middle, half] = [(xx + yy) / 2, Math.hypot((xx - yy) / 2, xy)];
    const [longer, shorter] = [middle + half, Math.max(0, middle - half)].map(Math.sqrt);
    const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
    const [x, y] = this.toPixel(found.centre);
    for (const [colour, wide] of [[colours().paper, 4], [this.run.colour, 2]]) {
      context.strokeStyle = colour;
      for (const sigma of [1, 2]) {
        context.lineWidth = wide / sigma ** 0.5;
        context.beginPath();
        context.ellipse(x, y, sigma * longer * this.scale, sigma * shorter * this.scale, -angle, 0, 2 * Math.PI);
        context.stroke();
      }
    }
    return 2 * longer * this.scale;
  }

  drawBack() {
    const context = this.back.getContext("2d");
    const theme = colours();
    const [wide, tall] = this.size;
    context.setTransform(this.density, 0, 0, this.density, 0, 0);
    context.clearRect(0, 0, wide, tall);
    context.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    const ticks = this.ticks();
    context.strokeStyle = theme.line;
    context.lineWidth = 1;
    for (const { x, y } of ticks) line(context, x ?? 0, y ?? 0, x ?? wide, y ?? tall);
    this.run.points.forEach((point, i) => {
      const [x, y] = this.toPixel(point);
      const label = shared.labels?.[i];
      context.globalAlpha = !picked.size || picked.has(label) ? 0.85 : 0.1;
      context.fillStyle = shared.labels ? shared.colours[label] : this.run.colour;
      context.beginPath();
      context.arc(x, y, DOT, 0, 2 * Math.PI);
      context.fill();
    });
    context.globalAlpha = 1;
    if (this.run.prior && this.run.d > 1) this.drawPrior(context, theme);
    this.drawWords(context, theme, ticks);
  }

  drawPrior(context, theme) {
    const [x, y] = this.toPixel(inPlane(this.run, new Float64Array(this.run.d)));
    context.strokeStyle = theme.soft;
    context.globalAlpha = 0.7;
    context.lineWidth = 1;
    for (const sigma of [1, 2]) {
      context.beginPath();
      context.arc(x, y, sigma * this.scale, 0, 2 * Math.PI);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  // Round numbers along both axes, with their pixel.
  ticks() {
    const [wide, tall] = this.size;
    const step = niceStep(90 / this.scale);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    const [left, bottom] = this.toPlane([0, tall]);
    const [right, top] = this.toPlane([wide, 0]);
    const along = (from, to, made) => {
      const first = Math.ceil(from / step);
      return Array.from({ length: Math.max(0, Math.floor(to / step) - first + 1) }, (_, i) => ({
        text: ((first + i) * step).toFixed(digits).replace("-", "−"),
        ...made((first + i) * step),
      }));
    };
    const across = along(left, right, (value) => ({ x: this.toPixel([value, 0])[0] }));
    return this.run.d === 1 ? across : [...across, ...along(bottom, top, (value) => ({ y: this.toPixel([0, value])[1] }))];
  }

  drawWords(context, theme, ticks) {
    const [wide, tall] = this.size;
    const [first, second] = this.run.names;
    const room = 28 + context.measureText(first).width;
    context.fillStyle = theme.soft;
    context.strokeStyle = theme.paper;
    context.lineWidth = 4;
    context.lineJoin = "round";
    const write = (text, x, y, align) => {
      context.textAlign = align;
      context.textBaseline = "middle";
      context.strokeText(text, x, y);
      context.fillText(text, x, y);
    };
    for (const { text, x, y } of ticks) {
      if (x > 40 && x < wide - room) write(text, x, tall - 11, "center");
      if (y > 30 && y < tall - 24) write(text, 7, y, "left");
    }
    write(second, 7, 14, "left");
    write(first, wide - 8, tall - 11, "right");
  }
}

function here(event) {
  return [event.offsetX, event.offsetY];
}

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

function dot(context, [x, y], colour, { ink, paper }) {
  for (const [fill, radius] of [[paper, 7], [ink, 5.5], [colour, 3.8]]) {
    context.fillStyle = fill;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }
}

// Open in its middle, where an ellipse may be small.
function cross(context, [x, y], { ink, paper }) {
  for (const [colour, wide, from, to] of [[paper, 5, 8, 16], [ink, 2, 9, 15]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      line(context, x + from * dx, y + from * dy, x + to * dx, y + to * dy);
    }
  }
}

// 1, 2 or 5 times a power of ten, at least so much.
function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}

let theme_read = null;

function colours() {
  if (!theme_read) {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    theme_read = { ink: of("ink"), soft: of("soft"), line: of("line"), paper: of("paper") };
  }
  return theme_read;
}

let frame = 0;
let speaking = 0;

function draw() {
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    sides.forEach((side) => side.draw());
    clearTimeout(speaking);
    speaking = setTimeout(speak, 600);
  });
}

// For whoever hears the page: where the point came to rest.
function speak() {
  const side = sides.find((one) => !one.linked) ?? sides[0];
  const of = className(side.image);
  document.getElementById("said").textContent =
    `${side.run.name}. ${side.where()} Nearest image: ${shared.indices[side.image]}${of ? `, ${of}` : ""}.`;
}

function redraw() {
  theme_read = null;
  sides.forEach((side) => (side.changed = true));
  draw();
}

shared.classes.forEach((name, label) => {
  const button = make("button", { type: "button" });
  const dot = make("span", {});
  dot.style.background = shared.colours[label];
  button.append(dot, name);
  button.setAttribute("aria-pressed", false);
  button.addEventListener("click", () => {
    if (!picked.delete(label)) picked.add(label);
    button.setAttribute("aria-pressed", picked.has(label));
    redraw();
  });
  document.getElementById("classes").append(button);
});

for (let index = 0; index < Math.min(2, shared.runs.length); index++) sides.push(new Side(index));
document.getElementById("sides").classList.toggle("two", sides.length > 1);
sides[0].take(0);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

// How fast this device decodes, said once it is asked for.
document.getElementById("about").addEventListener("toggle", () => {
  const { run, z } = sides[0];
  const start = performance.now();
  let n = 0;
  while (performance.now() - start < 200) {
    imageAt(run, z);
    n++;
  }
  const each = Math.round((1000 * n) / (performance.now() - start));
  document.getElementById("speed").textContent = run.decoder
    ? `${each.toLocaleString("en")} images a second decoded on this device by ${run.name}`
    : "decoded beforehand";
});
