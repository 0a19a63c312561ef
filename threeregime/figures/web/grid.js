// What the grid says, without drawing anything: regimes, advice, commands, addresses.
// The numbers were made by threeregime/figures/explorer_data.py; explorer.py joins this file with the others.

const REGIMES = ["I", "II-A", "II-B"];
const CHANCES = { I: "p_I", "II-A": "p_IIA", "II-B": "p_IIB" };
const MEANING = {
  I: "poorly connected",
  "II-A": "well connected, but less similar",
  "II-B": "well connected and similar",
};
// Which way a regime tells to turn the temperature: rows run from hot to cold.
const TURN = { I: -1, "II-A": 1, "II-B": 0 };

/** A number in print; null where there is none. A minus sign is as wide as a plus. */
function printed(value, digits) {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `−${text}` : text;
}

/** As `threeregime.thresholds.classify`. */
function classify(lmc, cka, lmcThreshold, ckaThreshold) {
  if (lmc === null) return null;
  if (lmc < lmcThreshold) return "I";
  if (cka === null) return null;
  return cka < ckaThreshold ? "II-A" : "II-B";
}

function diagramOf(grid, key) {
  return grid.diagrams.find((diagram) => diagram.key === key) ?? grid.diagrams[0];
}

/** The thresholds in force, and whether they are those that the probabilities belong to. */
function thresholdsOf(diagram, lmc, cka) {
  const same = (one, other) => Math.abs(one - other) < 1e-9;
  return { lmc, cka, own: same(lmc, diagram.lmc_threshold) && same(cka, diagram.cka_threshold) };
}

/** All columns at one place of the grid, with the regime there and whether the seeds are sure. */
function cellAt(diagram, row, column, thresholds) {
  const index = row * diagram.load.values.length + column;
  const cell = { row, column };
  for (const [name, values] of Object.entries(diagram.cells)) cell[name] = values[index];
  const { lmc, cka_softmax, no_nets } = cell;
  cell.regime = no_nets ? null : classify(lmc, cka_softmax, thresholds.lmc, thresholds.cka);
  cell.sure = isSure(cell, thresholds);
  return cell;
}

/** At a diagram's own thresholds by the replicates, at others by the two intervals. */
function isSure(cell, thresholds) {
  if (cell.regime === null || cell.p_I === null || cell.p_I === undefined) return false;
  if (thresholds.own) return cell[CHANCES[cell.regime]] >= 0.95;
  const across = (name, at) => cell[`${name}_low`] < at && cell[`${name}_high`] >= at;
  if (across("lmc", thresholds.lmc)) return false;
  return cell.regime === "I" || !across("cka_softmax", thresholds.cka);
}

/** The paper's cell at the same load and the same part of the whole dense run, if it has one. */
function paperAt(grid, diagram, row, column, thresholds) {
  const paper = grid.paper;
  if (!comparable(grid, diagram)) return null;
  const near = (values, wanted) => values.findIndex((value) => Math.abs(value - wanted) < 1e-6);
  const part = diagram.temperature.values[row] / diagram.total;
  const there = near(paper.temperature.values.map((value) => value / paper.total), part);
  const across = near(paper.load.values, diagram.load.values[column]);
  if (there < 0 || across < 0) return null;
  return cellAt(paper, there, across, paperThresholds(grid, diagram, thresholds));
}

function comparable(grid, diagram) {
  return grid.paper !== null && diagram.comparable;
}

/** The CKA threshold follows the diagram it is found on, until the reader gives one for both. */
function paperThresholds(grid, diagram, thresholds) {
  const given = Math.abs(thresholds.cka - diagram.cka_threshold) > 1e-9;
  const cka = given ? thresholds.cka : grid.paper.cka_threshold;
  return thresholdsOf(grid.paper, thresholds.lmc, cka);
}

/** What to do, in two sentences: what the regime tells, and what the table says of it. */
function advice(diagram, cell, thresholds) {
  const where = diagram.load.phrases[cell.column];
  if (cell.test_error === null || cell.test_error === undefined) {
    return { head: `No results at ${diagram.temperature.phrases[cell.row]}, ${where}.`, body: "" };
  }
  if (cell.regime === null) {
    const why = cell.no_nets ? "these nets learned too little" : "all pairs of copies diverged";
    return { head: `No regime: ${why}.`, body: "" };
  }
  const turn = TURN[cell.regime];
  const rule = { "-1": diagram.hotter, 0: "stay at this temperature", 1: diagram.colder }[turn];
  const end = turn < 0 ? 0 : diagram.temperature.values.length - 1;
  const beyond = turn && cell.row === end ? `, beyond what this diagram has` : "";
  const doubt = cell.sure ? "" : ", but the seeds leave it open";
  const head = `Regime ${cell.regime}${doubt}: ${rule}${beyond}.`;
  return { head, body: evidence(diagram, cell, turn) };
}

/** What the table says of the rule; a gain is claimed only where its whole interval is above 0. */
function evidence(diagram, cell, turn) {
  const where = diagram.load.phrases[cell.column];
  const best = diagram.best[cell.column];
  if (best === cell.row) {
    const agrees = turn === 0 ? "" : " The rule would turn away from it.";
    return `Of all temperatures at ${where}, this one has the lowest mean error.${agrees}`;
  }
  const there = diagram.temperature.phrases[best];
  const way = Math.sign(best - cell.row);
  const direction = way < 0 ? "hotter" : "colder";
  const against = turn ? `, ${direction} and not where the rule points` : ", though the rule says to stay";
  const less = printed(100 * (cell.test_error - errorAt(diagram, best, cell.column)), 1);
  const first = `The lowest mean error at ${where} is at ${there}${way === turn ? "" : against}: ${less} points less.`;
  if (cell.gain === null || cell.gain_low === null) return first;
  const ends = `${printed(100 * cell.gain_low, 1)} to ${printed(100 * cell.gain_high, 1)}`;
  const gain = `${printed(100 * cell.gain, 1)} points (95 % interval ${ends})`;
  const fair = `With the best temperature chosen on other dense seeds the gain is ${gain}`;
  const open = cell.gain_low > 0 ? "." : ": the seeds leave open whether there is one.";
  return `${first} ${fair}${open}`;
}

function errorAt(diagram, row, column) {
  return diagram.cells.test_error[row * diagram.load.values.length + column];
}

/** The command that computes one cell. */
function command(diagram, row, column) {
  const { temperature, load } = diagram;
  const load_at = `${load.name}=${load.values[column]}`;
  const at = `${load_at},${temperature.name}=${temperature.values[row]}`;
  return `${diagram.command} --only ${at} --out mine`;
}

/** The state as the part of an address after `#`; thresholds only where the reader moved them. */
function toAddress(grid, state) {
  const diagram = diagramOf(grid, state.experiment);
  const parts = {
    experiment: diagram.key,
    [diagram.load.name]: diagram.load.values[state.column],
    [diagram.temperature.name]: diagram.temperature.values[state.row],
  };
  if (!thresholdsOf(diagram, state.lmc_threshold, diagram.cka_threshold).own) {
    parts.lmc = Number(state.lmc_threshold.toFixed(4));
  }
  if (!thresholdsOf(diagram, diagram.lmc_threshold, state.cka_threshold).own) {
    parts.cka = Number(state.cka_threshold.toFixed(4));
  }
  if (state.paper) parts.paper = 1;
  return `#${Object.entries(parts).map(([name, value]) => `${name}=${value}`).join("&")}`;
}

/** The state that an address asks for; null where it speaks of something else. */
function fromAddress(grid, text) {
  if (!text.startsWith("#experiment=")) return null;
  const parts = new URLSearchParams(decoded(text.slice(1)));
  const diagram = grid.diagrams.find((one) => one.key === parts.get("experiment"));
  if (!diagram) return null;
  const number = (name, otherwise) => {
    const value = parts.get(name);
    return value !== null && value !== "" && isFinite(value) ? Number(value) : otherwise;
  };
  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  const { temperature, load } = diagram;
  return {
    experiment: diagram.key,
    row: nearest(temperature.values, number(temperature.name, temperature.values.at(-1))),
    column: nearest(load.values, number(load.name, load.values[0])),
    lmc_threshold: within(number("lmc", diagram.lmc_threshold), -1, 0),
    cka_threshold: within(number("cka", diagram.cka_threshold), 0, 1),
    paper: parts.get("paper") === "1" && comparable(grid, diagram),
  };
}

/** A part of an address without its escapes; as it is where these are not of an address. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function nearest(values, wanted) {
  const apart = values.map((value) => Math.abs(value - wanted));
  return apart.indexOf(Math.min(...apart));
}

/** The state after a change of diagram: about the same place, moved thresholds kept. */
function turnTo(grid, state, key) {
  const [before, after] = [diagramOf(grid, state.experiment), diagramOf(grid, key)];
  const part = state.row / Math.max(before.temperature.values.length - 1, 1);
  const moved = (name) => Math.abs(state[name] - before[name]) > 1e-9;
  const same = before.load.name === after.load.name;
  return {
    experiment: after.key,
    row: Math.round(part * (after.temperature.values.length - 1)),
    column: same ? nearest(after.load.values, before.load.values[state.column]) : 0,
    lmc_threshold: moved("lmc_threshold") ? state.lmc_threshold : after.lmc_threshold,
    cka_threshold: moved("cka_threshold") ? state.cka_threshold : after.cka_threshold,
    paper: state.paper && comparable(grid, after),
  };
}
