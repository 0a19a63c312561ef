// The widgets that run nets: the line between two copies, and pruning. Sliders are joined to their
// state from outside, so that JupyterLab and the book have the same ones.

const KEPT = ["#0072B2", "#D55E00"]; // positive and negative weights
const IDLE = 120; // milliseconds without a change, before points are measured ahead of the slider

const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
const keyOf = (value) => Number(value.toFixed(4));

/** A point of a curve that is measured once, the first time that it is asked for. */
function remembered(measure) {
  const known = new Map();
  return {
    known,
    at: (value) => {
      const key = keyOf(value);
      if (!known.has(key)) known.set(key, measure(key));
      return known.get(key);
    },
  };
}

/** Keep a drawing in step with some traits; when nothing changes, `ahead` measures one point more. */
function follow(model, names, root, draw, ahead) {
  let [frame, timer] = [0, 0];
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      if (ahead()) redraw();
    }, IDLE);
  };
  const redraw = () => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => {
      draw();
      later();
    });
  };
  const events = names.map((name) => `change:${name}`);
  for (const event of events) model.on(event, redraw);
  const sizes = new ResizeObserver(redraw);
  sizes.observe(root);
  redraw();
  return () => {
    for (const event of events) model.off?.(event, redraw);
    sizes.disconnect();
    cancelAnimationFrame(frame);
    clearTimeout(timer);
  };
}

/** The error over t or density: the points measured so far, those of the metric, and the current. */
function drawErrors({ width, highest, points, marked, now, label, name, ticks }) {
  const frame = { width, height: 200, right: 26, most: highest, steps: 4, ticks, name, label };
  const { svg, x, y, top, foot } = chart(frame);
  svg.append(
    make("line", { x1: x(now[0]), x2: x(now[0]), y1: top, y2: foot, class: "here" }),
    make("polyline", { points: points.map(([a, b]) => [x(a), y(b)]).join(" "), class: "curve" }),
  );
  for (const [a, b] of points) {
    if (marked.has(a)) svg.append(make("circle", { cx: x(a), cy: y(b), r: 2.5, class: "point" }));
  }
  svg.append(make("circle", { cx: x(now[0]), cy: y(now[1]), r: 6, class: "now" }));
  return svg;
}

function curveOf({ known }) {
  return [...known].map(([at, { error }]) => [at, error]).sort((a, b) => a[0] - b[0]);
}

/** A small picture in its own pixels; the style enlarges it. */
function paint(width, height, colourOf) {
  const canvas = make("canvas", { width, height, "aria-hidden": true });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) image.data.set(colourOf(i), 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** The test pictures; `mark` shows which are misread, and as what. */
function sheetOf(pictures) {
  const { count, channels, side, bytes, labels } = pictures;
  const area = side * side;
  const tiles = [...Array(count).keys()].map((n) => {
    const pixel = (i, c) => bytes[(n * channels + (c % channels)) * area + i];
    const canvas = paint(side, side, (i) => [pixel(i, 0), pixel(i, 1), pixel(i, 2), 255]);
    const text = make("span");
    return { text, box: make("div", { class: "tile" }, canvas, text) };
  });
  const named = { class: "sheet", role: "img", "aria-label": "Test pictures" };
  const box = make("div", named, ...tiles.map((tile) => tile.box));
  const mark = (read) =>
    tiles.forEach(({ text, box: tile }, n) => {
      const wrong = read[n] !== labels[n];
      tile.classList.toggle("misread", wrong);
      text.textContent = wrong ? `${labels[n]}→${read[n]}` : `${labels[n]}`;
    });
  return { box, mark };
}

/** The parts that both widgets have, and what is theirs: beside the curve, and below it. */
function frameOf(label, right, below) {
  const part = (name, ...children) => make("div", { class: name }, ...children);
  const view = {
    status: make("p", { class: "status", role: "status", "aria-live": "polite" }),
    plot: part("plot"),
    note: make("p", { class: "note" }),
  };
  view.root = make(
    "section",
    { class: "threeregime-explorer threeregime-live", "aria-label": label },
    part("panes", part("left", view.status, view.plot), part("right", ...right)),
    view.note,
    ...below,
  );
  return view;
}

function contentOf(model) {
  const given = model.get("content");
  return typeof given === "string" ? JSON.parse(given) : given;
}

function place(element, root) {
  element.style.width = "100%"; // in a box of widgets it would shrink to nothing
  element.append(root);
  document.documentElement.classList.add("explorer-ready");
}

/** The net at one point of a line, its batch norm re-estimated: its error, and what it reads. */
function measurePoint(net, pair, t, examples, pictures) {
  const mixed = between(...pair, t);
  net.reestimate(mixed, examples.input);
  const error = errorOf(net.read(mixed, examples.input), examples.labels);
  return { error, read: net.read(mixed, pictures.input) };
}

/** Walk the line between two copies. */
function showLine(model, element) {
  const content = contentOf(model);
  const { shapes, pairs, points, mean, std } = content;
  const net = new SparseNet(shapes);
  const [examples, pictures] = ["examples", "pictures"].map((name) =>
    unpackImages(content[name], mean, std),
  );
  const lines = pairs.map((pair) => {
    const copies = unpackPair(shapes, pair);
    return remembered((t) => measurePoint(net, copies, t, examples, pictures));
  });
  const sheet = sheetOf(pictures);
  const misread = make("p");
  const view = frameOf("The line between two copies", [misread, sheet.box], []);
  const chosen = () => Math.min(Math.max(model.get("pair"), 0), pairs.length - 1);
  const marked = new Set(points.map(keyOf));
  const draw = () => {
    const [pair, line, t] = [pairs[chosen()], lines[chosen()], model.get("t")];
    const { error, read } = line.at(t);
    const wrong = read.filter((found, n) => found !== pictures.labels[n]).length;
    sheet.mark(read);
    misread.textContent = `${wrong} of ${pictures.count} test pictures are misread.`;
    sheet.box.setAttribute("aria-label", misread.textContent);
    const whole = points.every((at) => line.known.has(keyOf(at)));
    const lmc = whole ? lmcOf(points.map((at) => line.at(at).error)) : null;
    view.root.dataset.lmc = lmc ?? "";
    view.root.dataset.error = error;
    const at = t === 0 || t === 1 ? `copy ${t + 1}` : `the net at ${t.toFixed(2)}`;
    view.status.replaceChildren(
      make("strong", {}, `Regime ${pair.regime}: ${at}`),
      ` misreads ${percent(error)} of the training examples. LMC `,
      make("span", { class: "lmc" }, lmc === null ? "…" : lmc.toFixed(3).replace("-", "−")),
    );
    view.plot.replaceChildren(
      drawErrors({
        width: Math.max(Math.floor(view.plot.clientWidth), 220),
        highest: content.highest,
        points: curveOf(line),
        marked,
        now: [t, error],
        label: "position t on the line",
        name: "Training error (%)",
        ticks: [[0, "copy 1"], [0.25, "0.25"], [0.5, "0.5"], [0.75, "0.75"], [1, "copy 2"]],
      }),
    );
    view.note.textContent =
      `Density ${percent(pair.density, 0)}, ${pair.epochs} epochs of dense training; errors of` +
      ` ${examples.count} training examples.`;
  };
  const ahead = () => {
    const next = points.find((at) => !lines[chosen()].known.has(keyOf(at)));
    if (next !== undefined) lines[chosen()].at(next);
    return next !== undefined;
  };
  place(element, view.root);
  return follow(model, ["pair", "t"], view.root, draw, ahead);
}

/** A name for a layer of a PreResNet. */
function layerName(name) {
  if (name === "conv.weight") return "first convolution";
  if (name === "linear.weight") return "linear layer";
  const [, block, part] = name.match(/^stages\.(\d+)\.(\w+)\./);
  return `block ${Number(block) + 1}, ${part.replace(/(\d)$/, " $1")}`;
}

/** The dense net without its smallest weights, layer by layer. */
function pruned(dense, layers, density) {
  const net = { ...dense };
  for (const { name, ranks } of layers) {
    const keep = keptCount(density, ranks.length);
    net[name] = dense[name].map((value, i) => (ranks[i] < keep ? value : 0));
  }
  return net;
}

/** The weights of a layer as a map, a row for each output channel: strong ones are opaque. */
function weightMap(weight, outputs) {
  const largest = weight.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  const colours = KEPT.map((text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16)));
  return paint(weight.length / outputs, outputs, (i) => {
    if (weight[i] === 0) return [0, 0, 0, 0];
    const strength = 130 + 125 * Math.sqrt(Math.abs(weight[i]) / largest);
    return [...colours[weight[i] > 0 ? 0 : 1], strength];
  });
}

const AHEAD = [1, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.02];

/** Prune a dense net. */
function showPruning(model, element) {
  const { shapes, dense: packed, prunable, pictures: images, mean, std } = contentOf(model);
  const net = new SparseNet(shapes);
  const dense = unpackDense(shapes, packed);
  const pictures = unpackImages(images, mean, std);
  const layers = shapes
    .filter(([name]) => prunable.includes(name))
    .map(([name, shape]) => {
      const [map, count] = [make("div", { class: "map" }), make("span")];
      const text = make("div", { class: "name" }, layerName(name), " ", count);
      const style = `--columns: ${dense[name].length / shape[0]}`;
      const box = make("div", { class: "layer", style }, map, text);
      return { name, outputs: shape[0], ranks: magnitudeRanks(dense[name]), map, count, box };
    });
  const all = layers.reduce((sum, layer) => sum + layer.ranks.length, 0);
  const line = remembered((density) => {
    const read = net.read(pruned(dense, layers, density), pictures.input);
    return { error: errorOf(read, pictures.labels) };
  });
  const named = { class: "maps", role: "img", "aria-label": "Kept weights of each layer" };
  const maps = make("div", named, ...layers.map((layer) => layer.box));
  const legend = make("p", { class: "legend" });
  for (const [k, text] of ["positive", "negative"].entries()) {
    const swatch = make("span", { class: "swatch", style: `background: ${KEPT[k]}` });
    legend.append(make("span", {}, swatch, ` ${text}`));
  }
  legend.append(make("span", {}, "empty: removed"));
  const told = make("p", {}, "Kept weights of each layer:");
  const view = frameOf("Pruning of a dense net", [], [told, maps, legend]);
  let shown = null;
  const drawMaps = (density) => {
    if (density === shown) return;
    shown = density;
    const weights = pruned(dense, layers, density);
    for (const { name, outputs, ranks, map, count } of layers) {
      map.replaceChildren(weightMap(weights[name], outputs));
      count.textContent = `${keptCount(density, ranks.length)} of ${ranks.length}`;
    }
  };
  const draw = () => {
    const density = keyOf(Math.min(Math.max(model.get("density"), 0.001), 1));
    const { error } = line.at(density);
    const kept = layers.reduce((sum, { ranks }) => sum + keptCount(density, ranks.length), 0);
    view.root.dataset.error = error;
    view.status.replaceChildren(
      make("strong", {}, `Density ${percent(density, 0)}:`),
      ` the pruned net misreads ${percent(error, 0)} of the test pictures.`,
    );
    drawMaps(density);
    maps.setAttribute("aria-label", `${kept} of ${all} weights are kept, the largest of each layer.`);
    view.plot.replaceChildren(
      drawErrors({
        width: Math.max(Math.floor(view.plot.clientWidth), 220),
        highest: 1,
        points: curveOf(line),
        marked: new Set(AHEAD),
        now: [density, error],
        label: "density (%)",
        name: "Test error (%)",
        ticks: [[0, "0"], [0.25, "25"], [0.5, "50"], [0.75, "75"], [1, "100"]],
      }),
    );
    view.note.textContent =
      `${kept} of ${all} weights are kept. ${packed.epochs} epochs of dense training; errors of` +
      ` ${pictures.count} test pictures before retraining.`;
  };
  const ahead = () => {
    const next = AHEAD.find((at) => !line.known.has(at));
    if (next !== undefined) line.at(next);
    return next !== undefined;
  };
  place(element, view.root);
  return follow(model, ["density"], view.root, draw, ahead);
}
