// The widget: its controls, what they do, and what a reader is told.

const STATE = ["experiment", "row", "column", "lmc_threshold", "cka_threshold", "paper"];
let made = 0;

/** A slider with a name in front of it and its value behind. */
function slider(name, attributes, onMove) {
  const id = `explorer-${++made}`;
  const input = make("input", { type: "range", id, ...attributes });
  const value = make("output", { for: id });
  input.addEventListener("input", () => onMove(Number(input.value)));
  const label = make("label", { for: id }, name);
  const box = make("div", { class: "slider" }, label, input, value);
  const show = (at, text, more = {}) => {
    for (const [key, given] of Object.entries(more)) input.setAttribute(key, given);
    if (Number(input.value) !== at) input.value = at;
    input.setAttribute("aria-valuetext", text);
    value.textContent = text;
  };
  return { box, input, label, show };
}

/** Build everything once; `draw` fills it from the state. */
function build(grid, act) {
  const choice = make("select", { id: `explorer-${++made}` });
  for (const diagram of grid.diagrams) {
    choice.append(make("option", { value: diagram.key }, diagram.title));
  }
  choice.addEventListener("change", () => act.turn(choice.value));
  // Drawing names these two after the axes; a screen reader may come before.
  const temperature = slider("Temperature", { min: 0, step: 1, class: "temperature" }, (row) =>
    act.set({ row }),
  );
  const load = slider("Load", { min: 0, step: 1, class: "load" }, (column) => act.set({ column }));
  // Thresholds stay on the values that their own diagram has until somebody moves them.
  const lmc = slider("LMC threshold", { min: -0.5, max: 0, step: 0.005, class: "lmc" }, (value) =>
    act.set({ lmc_threshold: value }),
  );
  const cka = slider("CKA threshold", { min: 0.5, max: 1, step: 0.001, class: "cka" }, (value) =>
    act.set({ cka_threshold: value }),
  );
  const reset = make("button", { type: "button", class: "reset" }, "Default thresholds");
  reset.addEventListener("click", act.reset);
  const paper = make("input", { type: "checkbox", id: `explorer-${++made}` });
  paper.addEventListener("change", () => act.set({ paper: paper.checked }));
  const over = make("label", { for: paper.id }, "the paper's regimes over ours");
  const part = (name, ...children) => make("div", { class: name }, ...children);
  const diagram = make("div", {
    class: "diagram",
    tabindex: 0,
    role: "application",
    "aria-label": "Phase diagram",
    "aria-roledescription": "phase diagram",
  });
  const command = make("code", { tabindex: 0 });
  const copy = make("button", { type: "button", class: "copy" }, "Copy");
  copy.addEventListener("click", () => copyText(command, copy));
  const view = {
    choice, temperature, load, lmc, cka, reset, paper, diagram, command, copy, over,
    legend: part("legend"),
    cell: make("h3"),
    advice: make("p", { class: "advice", role: "status", "aria-live": "polite" }),
    numbers: make("table"),
    chances: part("chances"),
    wall: part("wall"),
    slices: part("slices"),
    headline: make("p", { class: "note headline" }),
    note: make("p", { class: "note" }),
  };
  view.root = make(
    "section",
    { class: "threeregime-explorer", "aria-label": "Explorer of phase diagrams" },
    part("line", make("label", { for: choice.id }, "Experiment"), choice),
    part("sliders", temperature.box, load.box, lmc.box, cka.box),
    part("line", reset, part("check", paper, over)),
    part(
      "panes",
      part("left", diagram, view.legend),
      part("right", view.cell, view.advice, view.numbers, view.chances, view.wall),
      part(
        "below",
        part("command", make("span", {}, "To compute this cell:"), command, copy),
        view.note,
      ),
    ),
    view.slices,
    view.headline,
  );
  return view;
}

async function copyText(from, button) {
  try {
    await navigator.clipboard.writeText(from.textContent);
  } catch {
    // Not every browser lets a page that comes from a file write there.
    getSelection().selectAllChildren(from);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
}

/** Everything that the state decides. */
function draw(view, grid, state) {
  const diagram = diagramOf(grid, state.experiment);
  const { temperature, load } = diagram;
  const thresholds = thresholdsOf(diagram, state.lmc_threshold, state.cka_threshold);
  const row = Math.min(state.row, temperature.values.length - 1);
  const column = Math.min(state.column, load.values.length - 1);
  const cell = cellAt(diagram, row, column, thresholds);
  view.choice.value = diagram.key;
  view.temperature.label.textContent = temperature.label;
  view.temperature.show(row, temperature.ticks[row], { max: temperature.values.length - 1 });
  view.load.label.textContent = load.label;
  view.load.show(column, load.ticks[column], { max: load.values.length - 1 });
  view.lmc.show(state.lmc_threshold, printed(state.lmc_threshold, 3));
  view.cka.show(state.cka_threshold, printed(state.cka_threshold, 3));
  view.reset.disabled = thresholds.own;
  const can = comparable(grid, diagram);
  view.paper.disabled = !can;
  view.paper.checked = can && state.paper;
  view.over.parentElement.hidden = !can;
  const paper = view.paper.checked;
  const width = Math.max(Math.floor(view.diagram.clientWidth), 240);
  view.diagram.replaceChildren(
    drawDiagram({ grid, diagram, thresholds, row, column, paper }, width),
  );
  const place = `${temperature.phrases[row]}, ${load.phrases[column]}`;
  view.diagram.setAttribute(
    "aria-label",
    `${diagram.title}: the cell at ${place}. Arrow keys move it.`,
  );
  drawLegend(view.legend, grid, diagram, thresholds, paper);
  view.cell.textContent = place[0].toUpperCase() + place.slice(1);
  const told = advice(diagram, cell, thresholds);
  view.advice.replaceChildren(make("strong", {}, told.head), ` ${told.body}`);
  const theirs = paper ? paperAt(grid, diagram, row, column, thresholds) : null;
  drawNumbers(view.numbers, diagram, cell, theirs, paper);
  drawChances(view.chances, grid, cell, thresholds);
  const wide = Math.max(Math.floor(view.wall.clientWidth), 200);
  const curve = diagram.curves[row * load.values.length + column];
  view.wall.replaceChildren(
    make("h4", {}, "The wall between two copies"),
    drawCurve(diagram, curve, wide),
    make("p", { class: "unseen" }, curve ? inWords(curve) : "No curve."),
  );
  drawSlices(view.slices, diagram, row, column);
  view.headline.textContent = headlineWords(grid.headline);
  const asked = command(diagram, row, column);
  if (view.command.textContent !== asked) view.copy.textContent = "Copy";
  view.command.textContent = asked;
  view.note.textContent = note(grid, diagram, cell, thresholds, paper);
}

/** Test error along both axes through the cell. */
function drawSlices(box, diagram, row, column) {
  const both = Math.max(Math.floor(box.clientWidth), 200);
  const wide = both < 480 ? both : Math.floor((both - 12) / 2);
  const heads = {
    temperature: `Over the temperature, at ${diagram.load.phrases[column]}`,
    load: `Over the load, at ${diagram.temperature.phrases[row]}`,
  };
  box.replaceChildren(
    ...Object.entries(heads).map(([along, head]) =>
      make("div", { class: along }, make("h4", {}, head), drawSlice(diagram, along, row, column, wide)),
    ),
  );
  const dots = "Bars: 95 % intervals. Small dots: the dense seeds of this cell.";
  box.append(make("p", { class: "note" }, dots));
}

/** The headline over all studies; empty where none was given. */
function headlineWords(mean) {
  if (!mean) return "";
  const signed = (value) => `${value < 0 ? "" : "+"}${printed(value, 2)}`;
  return (
    `Over ${mean.studies} studies, the height of the wall and the gain from a hotter dense run have a ` +
    `rank correlation of ${signed(mean.effect)} (95 % interval ${signed(mean.low)} to ${signed(mean.high)}).`
  );
}

function inWords(curve) {
  const ends = printed((100 * (curve[0] + curve.at(-1))) / 2, 1);
  const top = printed(100 * Math.max(...curve), 1);
  return `Mean training error ${ends} % at the copies, at most ${top} % on the line between them.`;
}

function drawLegend(box, grid, diagram, thresholds, paper) {
  const swatch = (regime) => {
    const svg = make("svg", { width: 14, height: 14, "aria-hidden": true });
    const fill = grid.colours[regime];
    svg.append(make("rect", { width: 14, height: 14, class: "paper" }));
    svg.append(make("rect", { width: 14, height: 14, fill, "fill-opacity": FULL }));
    return make("span", {}, svg, ` Regime ${regime}`);
  };
  const line = (kind, text) => {
    const svg = make("svg", { width: 24, height: 10, "aria-hidden": true });
    svg.append(make("line", { x1: 0, x2: 24, y1: 5, y2: 5, class: `key ${kind}` }));
    return make("span", {}, svg, ` ${text}`);
  };
  const theirs = (regime) => {
    const svg = make("svg", { width: 12, height: 12, "aria-hidden": true });
    svg.append(mark(regime, 6, 6, 4.2, grid.colours[regime]));
    return make("span", {}, svg, ` ${regime}`);
  };
  box.replaceChildren(
    ...REGIMES.map(swatch),
    line("one-two", `LMC = ${printed(thresholds.lmc, 3)}`),
    line("two-two", `CKA = ${printed(thresholds.cka, 3)}`),
    make("span", {}, `Numbers: ${diagram.error[0].toLowerCase()}${diagram.error.slice(1)}`),
    make("span", {}, "Pale: the seeds leave the regime open"),
    ...(diagram.cells.no_nets.some(Boolean) ? [make("span", {}, "Crossed out: nets that learned too little")] : []),
    make("span", {}, "Click a cell, or move by the arrow keys"),
    ...(paper ? [make("span", {}, "The paper's:"), ...REGIMES.map(theirs)] : []),
  );
}

const NUMBERS = [
  ["test_error", 100, 1],
  ["lmc", 1, 3],
  ["cka_softmax", 1, 3],
];

function drawNumbers(table, diagram, cell, theirs, paper) {
  const heads = ["", "mean", "95 % interval", ...(paper ? ["paper"] : [])];
  const rows = NUMBERS.map(([name, factor, digits]) => {
    const text = (value) => printed(value === null || value === undefined ? null : factor * value, digits);
    const title = { test_error: diagram.error, lmc: "LMC", cka_softmax: "CKA" }[name];
    const known = cell[`${name}_low`] !== null;
    const ends = known ? `${text(cell[`${name}_low`])} to ${text(cell[`${name}_high`])}` : "–";
    return [title, text(cell[name]), ends, ...(paper ? [text(theirs?.[name])] : [])];
  });
  if (paper) rows.push(["Regime", cell.regime ?? "–", "", theirs?.regime ?? "–"]);
  table.replaceChildren(
    make("caption", { class: "unseen" }, "Numbers of this cell"),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make(
      "tbody",
      {},
      ...rows.map(([head, ...values]) =>
        make("tr", {}, make("th", { scope: "row" }, head), ...values.map((v) => make("td", {}, v))),
      ),
    ),
  );
}

/** How sure the seeds are: bars at a diagram's own thresholds, elsewhere in words alone. */
function drawChances(box, grid, cell, thresholds) {
  if (cell.regime === null) return box.replaceChildren();
  if (!thresholds.own) {
    const how = cell.sure ? "no 95 % interval lies across them" : "a 95 % interval lies across one";
    return box.replaceChildren(
      make("p", {}, `Probabilities are known at the default thresholds alone. At these ${how}.`),
    );
  }
  const bars = REGIMES.map((regime) => {
    const share = cell[CHANCES[regime]] ?? 0;
    const bar = make("span", { class: "bar", "aria-hidden": true });
    bar.append(make("span", { style: `width: ${100 * share}%; background: ${grid.colours[regime]}` }));
    const text = `${printed(100 * share, 0)} %`;
    return make("div", {}, make("span", { class: "name" }, regime), bar, make("span", {}, text));
  });
  return box.replaceChildren(make("h4", {}, "Probability of each regime"), ...bars);
}

function note(grid, diagram, cell, thresholds, paper) {
  const [dense, copies] = diagram.seeds;
  const lost = cell.n_diverged ? `, ${cell.n_diverged} nets diverged` : "";
  const cka = paperThresholds(grid, diagram, thresholds).cka;
  const theirs = paper
    ? ` The paper's cells are matched by density and by the part of the whole dense run, and split` +
      ` at CKA ${printed(cka, 3)}.`
    : "";
  return (
    `Means over ${cell.n_nets ?? 0} nets and ${cell.n_pairs ?? 0} pairs of copies (${dense} dense ×` +
    ` ${copies} retraining seeds${lost}); intervals by bootstrap over seeds, too narrow where dense` +
    ` seeds are few.${theirs}`
  );
}

/** Show the explorer in an element, and keep it and the state in step. */
function show(model, element) {
  const given = model.get("grid");
  const grid = typeof given === "string" ? JSON.parse(given) : given;
  const read = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  const set = (changes) => {
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const view = build(grid, {
    set,
    turn: (key) => set(turnTo(grid, read(), key)),
    reset: () => {
      const { lmc_threshold, cka_threshold } = diagramOf(grid, model.get("experiment"));
      set({ lmc_threshold, cka_threshold });
    },
  });
  let waiting = 0;
  const redraw = () => {
    // Several traits change at once, and one drawing is enough.
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => draw(view, grid, read()));
  };
  const go = (rows, columns) => {
    const { temperature, load } = diagramOf(grid, model.get("experiment"));
    const within = (value, count) => Math.min(Math.max(value, 0), count - 1);
    set({
      row: within(model.get("row") + rows, temperature.values.length),
      column: within(model.get("column") + columns, load.values.length),
    });
  };
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  view.diagram.addEventListener("keydown", (event) => {
    if (!(event.key in moves) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation(); // the page and JupyterLab have uses of their own for arrow keys
    go(...moves[event.key]);
  });
  view.diagram.addEventListener("click", (event) => {
    const { row, column } = event.target.closest("[data-row]")?.dataset ?? {};
    if (row !== undefined) set({ row: Number(row), column: Number(column) });
  });
  element.style.width = "100%"; // in a box of widgets it would shrink to nothing
  element.append(view.root);
  document.documentElement.classList.add("explorer-ready");
  const names = STATE.map((name) => `change:${name}`);
  for (const name of names) model.on(name, redraw);
  const sizes = new ResizeObserver(redraw);
  sizes.observe(view.root);
  const leave = followAddress(model, grid, read, set, view.root);
  redraw();
  return () => {
    for (const name of names) model.off?.(name, redraw);
    sizes.disconnect();
    leave();
  };
}

/** Keep the state in the page's address, but for JupyterLab, whose address is its own. */
function followAddress(model, grid, read, set, root) {
  if (document.getElementById("jupyter-config-data")) return () => {};
  const take = () => {
    const asked = fromAddress(grid, location.hash);
    if (asked) set(asked);
    return asked !== null;
  };
  if (take()) root.scrollIntoView({ block: "start" });
  let waiting = 0;
  // Browsers refuse hundreds of changes a minute.
  const write = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const text = toAddress(grid, read());
      if (text !== location.hash) history.replaceState(history.state, "", text);
    }, 200);
  };
  for (const name of STATE) model.on(`change:${name}`, write);
  addEventListener("hashchange", take);
  return () => {
    for (const name of STATE) model.off?.(`change:${name}`, write);
    removeEventListener("hashchange", take);
    clearTimeout(waiting);
  };
}

/** The explorer in a page without widgets: its data lie in the page beside it. */
function standalone(page) {
  const state = JSON.parse(page.getElementById("explorer-grid").textContent);
  const events = new EventTarget();
  const model = {
    get: (name) => state[name],
    set: (name, value) => {
      if (state[name] === value) return;
      state[name] = value;
      events.dispatchEvent(new Event(`change:${name}`));
    },
    save_changes: () => {},
    on: (name, listener) => events.addEventListener(name, listener),
    off: (name, listener) => events.removeEventListener(name, listener),
  };
  show(model, page.querySelector("[data-explorer]"));
}

export default { render: ({ model, el }) => show(model, el) };
