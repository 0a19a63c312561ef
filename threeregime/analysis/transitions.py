"""The effect of the temperature in a phase diagram: best temperatures, transitions, boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis.bootstrap import Array, mean
from threeregime.analysis.cells import METRICS
from threeregime.analysis.intervals import held_out_error, rank_correlation, t_half_width
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import REGIMES
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class Transition:
    """A favourable change of temperature at one load.

    Attributes:
        load: the load.
        start: temperature before.
        end: temperature after.
        before: regime of the cell at ``start``.
        after: regime of the cell at ``end``.
        gain: mean test error at ``start`` minus that at ``end``, a fraction. It is biased upwards,
            since the end is chosen for its low error on the same nets;
            `threeregime.claims.diagram_statements.heating_helps` measures it without that bias.
    """

    load: float
    start: float
    end: float
    before: str
    after: str
    gain: float


def best_temperatures(diagram: PhaseDiagram) -> pd.DataFrame:
    """Temperature of lowest mean test error at each load, with the hottest and the coldest.

    Returns:
        One row per load: ``best`` (temperature), ``error_hottest``, ``error_best``,
        ``error_coldest`` (fractions), ``regime_hottest``, ``regime_best``, ``regime_coldest``.
        Hottest and coldest are among the load's cells that have a test error; NaN and None for a
        load without any.
    """
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    rows = []
    for j, load in enumerate(diagram.loads):
        known = np.flatnonzero(np.isfinite(error[:, j]))
        if known.size:
            best = known[np.argmin(error[known, j])]
            index = {"hottest": known[0], "best": best, "coldest": known[-1]}
            row = {diagram.load: load, "best": diagram.temperatures[best]}
        else:
            index = dict.fromkeys(("hottest", "best", "coldest"), 0)
            row = {diagram.load: load, "best": np.nan}
        row |= {f"error_{name}": error[i, j] for name, i in index.items()}
        rows.append(row | {f"regime_{name}": regime[i, j] for name, i in index.items()})
    return pd.DataFrame(rows)


def temperature_gains(diagram: PhaseDiagram) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """Gain of each cell from its load's best temperature, without the bias of choosing it.

    The lowest of many noisy errors underestimates the true one. For each dense seed the temperature
    is therefore chosen on the other dense seeds and the gain is measured on this one, as in
    `threeregime.claims.diagram_statements.heating_helps`; the interval is Student's t over these
    gains.

    Returns:
        Row of the lowest mean test error of each load [L], -1 where there is none; then the mean
        gain (fraction of test error, positive where the best is better) and the ends of its 95 %
        interval, each [T, L], NaN without seeds.
    """
    error, seeds = diagram.grid("test_error"), diagram.by_seed.get("test_error")
    best = np.where(
        np.isfinite(error).any(0), np.where(np.isnan(error), np.inf, error).argmin(0), -1
    )
    gain, half = np.full(error.shape, np.nan), np.full(error.shape, np.nan)
    if seeds is None or len(seeds) < 2:
        return best, gain, gain - half, gain + half
    by_seed = seeds - held_out_error(seeds)[:, None]
    gain, count = mean(by_seed, 0), np.isfinite(by_seed).sum(0)
    standard_error = np.sqrt(mean((by_seed - gain) ** 2, 0) / np.maximum(count - 1, 1))
    for n in np.unique(count):
        half[count == n] = t_half_width(1.0, int(n)) * standard_error[count == n]
    return best, gain, gain - half, gain + half


def favourable_transitions(diagram: PhaseDiagram) -> tuple[Transition | None, Transition | None]:
    """The two favourable transitions of the paper's Figures 1 and 2, at the load of largest gain.

    Returns:
        ``(heating, cooling)``. Heating starts at a load's coldest cell, in Regime I, and ends at
        the hotter cell of Regime II-A with the lowest test error. Cooling starts at a load's
        hottest cell, in II-A, and ends at the colder cell of II-B with the lowest test error.
        None where no load has a gain.
    """
    return _favourable(diagram, "I", "II-A", -1), _favourable(diagram, "II-A", "II-B", 0)


def _favourable(diagram: PhaseDiagram, before: str, after: str, start: int) -> Transition | None:
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    transitions = []
    for j, load in enumerate(diagram.loads):
        known = np.flatnonzero(np.isfinite(error[:, j]))
        if not known.size or regime[known[start], j] != before:
            continue
        ends = known[regime[known, j] == after]
        if ends.size:
            end = ends[np.argmin(error[ends, j])]
            gain = float(error[known[start], j] - error[end, j])
            change = (diagram.temperatures[known[start]], diagram.temperatures[end])
            transitions.append(Transition(load, *change, before, after, gain))
    best = max(transitions, key=lambda t: t.gain, default=None)
    return best if best and best.gain > 0 else None


def regime_boundaries(diagram: PhaseDiagram) -> dict[str, Array]:
    """Edges between cells of different regimes, for drawing.

    Returns:
        ``"I|II"`` and ``"II-A|II-B"`` to segments [n, 2, 2] of (x, y) ends, in units of cells:
        the cell in row i (hot to cold) and column j covers x from j to j + 1, y from i to i + 1.
    """
    regime = diagram.grid("regime")
    lines: dict[str, list[list[tuple[int, int]]]] = {"I|II": [], "II-A|II-B": []}
    height, width = regime.shape
    for i, j in np.ndindex(height, width):
        neighbours = [(i, j + 1, (j + 1, i)), (i + 1, j, (j, i + 1))]
        for row, column, corner in neighbours:
            if row < height and column < width:
                sides = {regime[i, j], regime[row, column]}
                if len(sides) == 2 and None not in sides:
                    kind = "I|II" if "I" in sides else "II-A|II-B"
                    lines[kind].append([corner, (j + 1, i + 1)])
    return {name: np.array(edges, float).reshape(-1, 2, 2) for name, edges in lines.items()}


def regime_label_positions(diagram: PhaseDiagram) -> dict[str, tuple[float, float]]:
    """Position of each regime's name, as (x, y): the middle of the cell deepest inside it.

    Depth is the distance to the nearest cell of another regime or beyond the diagram's edge, in
    units of cells; of equally deep cells the one nearest their mean is taken. Loads with the arrow
    of a favourable transition are avoided if the regime has others. Absent regimes have no entry.
    """
    regime = np.pad(diagram.grid("regime").astype(str), 1, constant_values="")
    arrows = [
        diagram.loads.index(t.load) + 1 for t in favourable_transitions(diagram) if t is not None
    ]
    positions = {}
    for name in REGIMES:
        inside, outside = np.argwhere(regime == name), np.argwhere(regime != name)
        clear = inside[~np.isin(inside[:, 1], arrows)]
        inside = clear if clear.size else inside
        if inside.size:
            depth = np.linalg.norm(inside[:, None] - outside, axis=-1).min(axis=1)
            deepest: NDArray[np.int64] = inside[depth >= depth.max() - 1e-9]
            y, x = deepest[np.linalg.norm(deepest - deepest.mean(0), axis=1).argmin()] - 0.5
            positions[name] = (float(x), float(y))
    return positions


def compare_cells(diagram: PhaseDiagram, reference: PhaseDiagram) -> pd.DataFrame:
    """Compare two diagrams at the cells in common.

    Loads must be equal. Epochs are compared as fractions of the whole dense run, since runs differ
    in length; any other temperature must be equal.

    Returns:
        One row per common cell: ``temperature`` (that fraction, or the value), the load, and for
        each metric ``NAME``, ``NAME_reference`` and ``NAME_difference`` (this minus reference);
        also ``regime``, ``regime_reference`` and ``same_regime``.

    Raises:
        ThreeRegimeError: If the axes differ or no cell is in common.
    """
    if (diagram.temperature, diagram.load) != (reference.temperature, reference.load):
        raise ThreeRegimeError(
            f"cannot compare {diagram.temperature} x {diagram.load} with "
            f"{reference.temperature} x {reference.load}: give two diagrams over the same axes"
        )
    sides = []
    for side in (diagram, reference):
        unit = side.total if side.temperature == "epochs" else 1.0
        cells = side.cells.assign(
            temperature=(side.cells[side.temperature] / unit).round(6),
            **{side.load: side.cells[side.load].round(6)},
        )
        sides.append(cells[["temperature", side.load, *METRICS, "regime"]])
    table = sides[0].merge(sides[1], on=["temperature", diagram.load], suffixes=("", "_reference"))
    if table.empty:
        raise ThreeRegimeError(
            f"{diagram.title} and {reference.title} share no cell: compute one with "
            f"--only {diagram.load}={reference.loads[0]:g}"
        )
    for name in METRICS:
        table[f"{name}_difference"] = table[name] - table[f"{name}_reference"]
    return table.assign(same_regime=table["regime"] == table["regime_reference"])


def diagram_agreement(diagram: PhaseDiagram, reference: PhaseDiagram) -> pd.DataFrame:
    """Agreement of two diagrams at the cells in common, one row per metric.

    Columns: metric (if both have it), number of cells, means of both and of their difference
    (fractions), Spearman's rank correlation; the last row is the share of cells in the same regime.

    Raises:
        ThreeRegimeError: As `compare_cells`.
    """
    table = compare_cells(diagram, reference)
    rows: list[dict[str, object]] = [
        {
            "metric": name,
            "cells": len(table),
            "mean here": table[name].mean(),
            "in the paper": table[f"{name}_reference"].mean(),
            "mean difference": table[f"{name}_difference"].mean(),
            "rank correlation": rank_correlation(table[name], table[f"{name}_reference"]),
        }
        for name in METRICS
        if table[f"{name}_reference"].notna().any()
    ]
    same = {"metric": "same regime", "cells": len(table), "mean here": table["same_regime"].mean()}
    return pd.DataFrame([*rows, same])
