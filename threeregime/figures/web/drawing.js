// Drawing: the phase diagram and the curve of a wall, as SVG.

const SVG = "http://www.w3.org/2000/svg";
const PALE = 0.28;
const FULL = 0.68;

/** An element of HTML or SVG with attributes and children. */
function make(name, attributes = {}, ...children) {
  const drawn = ["svg", "g", "rect", "line", "path", "text", "circle", "polyline", "title"];
  const element = drawn.includes(name)
    ? document.createElementNS(SVG, name)
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** A mark for each regime: by shape as well as by colour. */
function mark(regime, x, y, size, colour) {
  const paths = {
    I: `M${x - size} ${y - size}h${2 * size}L${x} ${y + size}Z`,
    "II-A": `M${x - size} ${y}a${size} ${size} 0 1 0 ${2 * size} 0a${size} ${size} 0 1 0 ${-2 * size} 0Z`,
    "II-B": `M${x - size} ${y - size}h${2 * size}v${2 * size}h${-2 * size}Z`,
  };
  return make("path", { d: paths[regime], fill: colour, class: "mark" });
}

/** Which rows or columns get a tick, so that the last one always has. */
function ticked(count, room) {
  const step = Math.max(1, Math.ceil(count / Math.max(1, Math.floor(room))));
  return [...Array(count).keys()].filter((i) => (count - 1 - i) % step === 0);
}

/**
 * The diagram.
 *
 * @param {object} view grid, diagram, thresholds, row, column, paper (whether it lies over ours)
 * @param {number} width in pixels
 * @returns the SVG; its cells carry `data-row` and `data-column`
 */
function drawDiagram(view, width) {
  const { grid, diagram, thresholds } = view;
  const [rows, columns] = [diagram.temperature.values.length, diagram.load.values.length];
  const [left, right, top, bottom] = [54, 6, 6, 46];
  const across = (width - left - right) / columns;
  const down = Math.min(Math.max(380 / rows, 22), 46);
  const height = top + bottom + down * rows;
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": true });
  const [x, y] = [(column) => left + across * column, (row) => top + down * row];
  const regimes = [];
  for (let row = 0; row < rows; row++) {
    regimes.push([]);
    for (let column = 0; column < columns; column++) {
      const cell = cellAt(diagram, row, column, thresholds);
      regimes[row].push(cell.regime);
      const theirs = view.paper ? paperAt(grid, diagram, row, column, thresholds) : null;
      svg.append(drawCell(grid, cell, theirs, x(column), y(row), across, down));
    }
  }
  svg.append(boundaries(regimes, x, y), axes(diagram, x, y, across, down, width, height, left));
  const chosen = { x: x(view.column), y: y(view.row), width: across, height: down, fill: "none" };
  svg.append(make("rect", { ...chosen, class: "rim" }), make("rect", { ...chosen, class: "chosen" }));
  return svg;
}

function drawCell(grid, cell, theirs, x, y, width, height) {
  const place = { x, y, width: width - 0.5, height: height - 0.5 };
  const colour = cell.regime === null ? null : grid.colours[cell.regime];
  const error = cell.test_error ?? null;
  const digits = width < 30 && 100 * error >= 10 ? 0 : 1;
  const aside = theirs ? 0.38 : 0.5;
  const number = { x: x + aside * width, y: y + height / 2, class: error === null ? "none" : "number" };
  const group = make(
    "g",
    { "data-row": cell.row, "data-column": cell.column, "data-regime": cell.regime, class: "cell" },
    make("rect", { ...place, class: error === null ? "missing" : "paper" }),
    colour && make("rect", { ...place, fill: colour, "fill-opacity": cell.sure ? FULL : PALE }),
    cell.no_nets ? make("line", { x1: x, x2: x + width, y1: y + height, y2: y, class: "barren" }) : null,
    width < 20 ? null : make("text", number, printed(error === null ? null : 100 * error, digits)),
  );
  if (theirs?.regime) {
    const at = [x + 0.83 * width, y + height / 2];
    group.append(mark(theirs.regime, ...at, Math.min(4.2, width / 9), grid.colours[theirs.regime]));
  }
  return group;
}

/** Lines between cells of different regimes: whole around Regime I, dashed inside II. */
function boundaries(regimes, x, y) {
  const group = make("g", { class: "boundaries" });
  const edge = (one, other, ends) => {
    if (!one || !other || one === other) return;
    const kind = one === "I" || other === "I" ? "one-two" : "two-two";
    const [x1, y1, x2, y2] = ends;
    group.prepend(make("line", { x1, y1, x2, y2, class: "halo" }));
    group.append(make("line", { x1, y1, x2, y2, class: kind }));
  };
  regimes.forEach((line, row) =>
    line.forEach((regime, column) => {
      edge(regime, line[column + 1], [x(column + 1), y(row), x(column + 1), y(row + 1)]);
      edge(regime, regimes[row + 1]?.[column], [x(column), y(row + 1), x(column + 1), y(row + 1)]);
    }),
  );
  return group;
}

function axes(diagram, x, y, across, down, width, height, left) {
  const { temperature, load } = diagram;
  const [rows, columns] = [temperature.values.length, load.values.length];
  const foot = y(rows);
  const group = make("g", { class: "axes" });
  for (const row of ticked(rows, (rows * down) / 15)) {
    const at = { x: left - 5, y: y(row) + down / 2, class: "tick end" };
    group.append(make("text", at, temperature.ticks[row]));
  }
  for (const column of ticked(columns, (columns * across) / 26)) {
    const at = { x: x(column) + across / 2, y: foot + 12, class: "tick" };
    group.append(make("text", at, load.ticks[column]));
  }
  const turned = (text, at, name) => {
    const place = { x: 0, y: 0, transform: `translate(11 ${at}) rotate(-90)`, class: name };
    return make("text", place, text);
  };
  group.append(
    make("text", { x: left, y: foot + 32, class: "start" }, "high load"),
    make("text", { x: (left + width) / 2, y: foot + 32, class: "label" }, load.label),
    make("text", { x: width - 6, y: foot + 32, class: "end" }, "low load"),
    turned("hot", y(0), "end"),
    turned(temperature.label, (y(0) + foot) / 2, "label"),
    turned("cold", foot, "start"),
  );
  return group;
}

/**
 * An empty chart of errors: rules with ticks, both labels, and the scales that place what is drawn.
 *
 * @param {number} most the highest error, a fraction
 * @param {number} steps how many rules lie above the lowest
 * @param {Array} ticks pairs of a position from 0 to 1 and its text
 */
function chart({ width, height, right = 10, most, steps, ticks, name, label }) {
  const [left, top, bottom] = [50, 8, 40];
  const x = (share) => left + (width - left - right) * share;
  const y = (error) => top + (height - top - bottom) * (1 - Math.min(error, most) / most);
  const svg = make("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": true });
  for (let i = 0; i <= steps; i++) {
    const error = (most * i) / steps;
    const rule = { x1: left, x2: width - right, y1: y(error), y2: y(error), class: "rule" };
    const text = { x: left - 5, y: y(error), class: "tick end" };
    svg.append(make("line", rule), make("text", text, `${Math.round(100 * error)}`));
  }
  for (const [share, text] of ticks) {
    svg.append(make("text", { x: x(share), y: height - bottom + 13, class: "tick" }, text));
  }
  const middle = (top + height - bottom) / 2;
  const turned = { x: 0, y: 0, transform: `translate(11 ${middle}) rotate(-90)`, class: "label" };
  svg.append(
    make("text", turned, name),
    make("text", { x: (left + width - right) / 2, y: height - 8, class: "label" }, label),
  );
  return { svg, x, y, top, foot: height - bottom };
}

/** Mean error along the line between two copies; the scale is that of the whole diagram. */
function drawCurve(diagram, curve, width) {
  const highest = Math.max(0.05, ...diagram.curves.flatMap((one) => one ?? []));
  const most = Math.ceil(10 * highest) / 10;
  const { svg, x, y } = chart({
    width,
    height: 168,
    most,
    steps: most > 0.5 ? 4 : 2,
    ticks: [0, 0.5, 1].map((t) => [t, `${t}`]),
    name: "Training error (%)",
    label: "from one copy to the other",
  });
  if (curve) {
    const points = curve.map((error, i) => [x(i / (curve.length - 1)), y(error)]);
    svg.append(make("polyline", { points: points.join(" "), class: "curve" }));
    for (const [cx, cy] of points) svg.append(make("circle", { cx, cy, r: 2.5, class: "point" }));
  }
  return svg;
}

/**
 * A slice through the diagram: test error with its intervals along one axis, through one cell, whose
 * dense seeds are dots. The scale is that of all cells of the slice.
 *
 * @param {string} along "temperature" or "load"
 */
function drawSlice(diagram, along, row, column, width) {
  const axis = diagram[along];
  const columns = diagram.load.values.length;
  const places = [...axis.values.keys()];
  const index = (i) => (along === "temperature" ? i * columns + column : row * columns + i);
  const at = (name, i) => diagram.cells[name][index(i)] ?? null;
  const here = along === "temperature" ? row : column;
  const seeds = diagram.by_seed[index(here)].filter((error) => error !== null);
  const all = places.flatMap((i) => [at("test_error_high", i), at("test_error", i)]);
  const share = (i) => (i + 0.5) / places.length;
  const { svg, x, y } = chart({
    width,
    height: 150,
    most: Math.ceil(10 * Math.max(0.05, ...all, ...seeds)) / 10,
    steps: 2,
    ticks: ticked(places.length, (width - 60) / 30).map((i) => [share(i), axis.ticks[i]]),
    name: diagram.error,
    label: axis.label,
  });
  const known = places.filter((i) => at("test_error", i) !== null);
  const points = known.map((i) => [x(share(i)), y(at("test_error", i))]);
  svg.append(make("polyline", { points: points.join(" "), class: "curve" }));
  known.forEach((i, n) => {
    const [cx, cy] = points[n];
    const [low, high] = [at("test_error_low", i), at("test_error_high", i)];
    const span = { x1: cx, x2: cx, y1: y(low), y2: y(high), class: "span" };
    if (low !== null) svg.append(make("line", span));
    svg.append(make("circle", { cx, cy, r: i === here ? 4 : 2.5, class: "point" }));
  });
  for (const error of seeds) {
    svg.append(make("circle", { cx: x(share(here)) + 7, cy: y(error), r: 1.8, class: "seed" }));
  }
  return svg;
}
