"""What a phase diagram says about turning the temperature: best ones, transitions, boundaries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis.bootstrap import Array, mean
from threeregime.analysis.cells import METRICS
from threeregime.analysis.intervals import held_out_error, t_half_width
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import REGIMES
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class Transition:
    """A favourable change of temperature at one load.

    Attributes:
        load: where it is made.
        start: temperature before.
        end: temperature after.
        before: regime of the cell at ``start``.
        after: regime of the cell at ``end``.
        gain: mean test error at ``start`` minus that at ``end``, a fraction. The end was chosen
            for its low error on the same nets, so the gain is somewhat too large; the measure
            without that bias is `threeregime.claims.diagram_statements.heating_helps`.
    """

    load: float
    start: float
    end: float
    before: str
    after: str
    gain: float


def best_temperatures(diagram: PhaseDiagram) -> pd.DataFrame:
    """For each load the temperature of lowest mean test error, beside the hottest and the coldest.

    Returns:
        One row a load: ``best`` (temperature), ``error_hottest``, ``error_best``,
        ``error_coldest`` (fractions), ``regime_hottest``, ``regime_best``, ``regime_coldest``.
        Hottest and coldest are those of the load's cells that have a test error; a load without
        any is left out.
    """
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    rows = []
    for j, load in enumerate(diagram.loads):
        known = np.flatnonzero(np.isfinite(error[:, j]))
        if not known.size:
            continue
        best = known[np.argmin(error[known, j])]
        at = {"hottest": known[0], "best": best, "coldest": known[-1]}
        row = {diagram.load: load, "best": diagram.temperatures[best]}
        row |= {f"error_{name}": error[i, j] for name, i in at.items()}
        rows.append(row | {f"regime_{name}": regime[i, j] for name, i in at.items()})
    return pd.DataFrame(rows)


def temperature_gains(diagram: PhaseDiagram) -> tuple[NDArray[np.int64], Array, Array, Array]:
    """What each cell would gain from its load's best temperature, without the bias of choosing it.

    The best of many noisy numbers looks better than it is. So for each dense seed the temperature
    is chosen on the other dense seeds and the gain is measured on this one, as in
    `threeregime.claims.diagram_statements.heating_helps`; the interval is Student's t over these
    gains.

    Returns:
        Row of the lowest mean test error of each load [L], -1 where there is none; then the mean
        gain (fraction of test error, positive where the best is better) and its 95 % interval, each
        [T, L], NaN without seeds.
    """
    error, seeds = diagram.grid("test_error"), diagram.by_seed.get("test_error")
    best = np.where(
        np.isfinite(error).any(0), np.where(np.isnan(error), np.inf, error).argmin(0), -1
    )
    gain, half = np.full(error.shape, np.nan), np.full(error.shape, np.nan)
    if seeds is None or len(seeds) < 2:
        return best, gain, gain - half, gain + half
    each = seeds - held_out_error(seeds)[:, None]
    gain, count = mean(each, 0), np.isfinite(each).sum(0)
    spread = np.sqrt(mean((each - gain) ** 2, 0) / np.maximum(count - 1, 1))
    for n in np.unique(count):
        half[count == n] = t_half_width(1.0, int(n)) * spread[count == n]
    return best, gain, gain - half, gain + half


def favourable_transitions(diagram: PhaseDiagram) -> tuple[Transition | None, Transition | None]:
    """The two favourable transitions of the paper's Figures 1 and 2, at the load of largest gain.

    Returns:
        ``(heating, cooling)``. Heating starts at a load's coldest cell, in Regime I, and goes to
        the hotter cell of Regime II-A with the lowest test error. Cooling starts at a load's
        hottest cell, in II-A, and goes to the colder cell of II-B with the lowest test error.
        None where no load offers a gain.
    """
    return _favourable(diagram, "I", "II-A", -1), _favourable(diagram, "II-A", "II-B", 0)


def _favourable(diagram: PhaseDiagram, before: str, after: str, start: int) -> Transition | None:
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    found = []
    for j, load in enumerate(diagram.loads):
        known = np.flatnonzero(np.isfinite(error[:, j]))
        if not known.size or regime[known[start], j] != before:
            continue
        ends = known[regime[known, j] == after]
        if ends.size:
            end = ends[np.argmin(error[ends, j])]
            gain = float(error[known[start], j] - error[end, j])
            where = (diagram.temperatures[known[start]], diagram.temperatures[end])
            found.append(Transition(load, *where, before, after, gain))
    best = max(found, key=lambda t: t.gain, default=None)
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
    for i in range(height):
        for j in range(width):
            if j + 1 < width:
                _edge(lines, regime[i, j], regime[i, j + 1], [(j + 1, i), (j + 1, i + 1)])
            if i + 1 < height:
                _edge(lines, regime[i, j], regime[i + 1, j], [(j, i + 1), (j + 1, i + 1)])
    return {name: np.array(edges, float).reshape(-1, 2, 2) for name, edges in lines.items()}


def _edge(
    lines: dict[str, list[list[tuple[int, int]]]],
    one: str | None,
    other: str | None,
    ends: list[tuple[int, int]],
) -> None:
    if one is not None and other is not None and one != other:
        lines["I|II" if "I" in (one, other) else "II-A|II-B"].append(ends)


def regime_label_positions(diagram: PhaseDiagram) -> dict[str, tuple[float, float]]:
    """Where to write each regime's name: the cell deepest inside it, as (x, y) of its middle.

    Depth is the distance to the nearest cell of another regime or beyond the diagram's edge, in
    units of cells; of equally deep ones it is the one nearest their mean. Loads at which a
    favourable transition is drawn are left to its arrow where the regime has others. Absent regimes
    have no entry.
    """
    regime = np.pad(diagram.grid("regime").astype(str), 1, constant_values="")
    arrows = [
        diagram.loads.index(t.load) + 1 for t in favourable_transitions(diagram) if t is not None
    ]
    spots = {}
    for name in REGIMES:
        inside, outside = np.argwhere(regime == name), np.argwhere(regime != name)
        clear = inside[~np.isin(inside[:, 1], arrows)]
        inside = clear if clear.size else inside
        if inside.size:
            depth = np.linalg.norm(inside[:, None] - outside, axis=-1).min(axis=1)
            deepest: NDArray[np.int64] = inside[depth >= depth.max() - 1e-9]
            y, x = deepest[np.linalg.norm(deepest - deepest.mean(0), axis=1).argmin()] - 0.5
            spots[name] = (float(x), float(y))
    return spots


def compare_cells(diagram: PhaseDiagram, reference: PhaseDiagram) -> pd.DataFrame:
    """Two diagrams at the cells in common.

    Loads must be equal. Epochs are compared as fractions of the whole dense run, since runs differ
    in length; any other temperature must be equal.

    Returns:
        One row a common cell: ``temperature`` (that fraction, or the value), the load, and for each
        metric ``NAME``, ``NAME_reference`` and ``NAME_difference`` (this minus reference); likewise
        ``regime``, ``regime_reference`` and ``same_regime``.

    Raises:
        ThreeRegimeError: other axes, or no cell in common.
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
    both = sides[0].merge(sides[1], on=["temperature", diagram.load], suffixes=("", "_reference"))
    if both.empty:
        raise ThreeRegimeError(
            f"{diagram.title} and {reference.title} share no cell: compute one with "
            f"--only {diagram.load}={reference.loads[0]:g}"
        )
    for name in METRICS:
        both[f"{name}_difference"] = both[name] - both[f"{name}_reference"]
    return both.assign(same_regime=both["regime"] == both["regime_reference"])


def diagram_agreement(diagram: PhaseDiagram, reference: PhaseDiagram) -> pd.DataFrame:
    """How two diagrams agree at the cells in common: one row a metric.

    Columns: metric (of those that both have), number of cells, means of both and of their
    difference (fractions), rank correlation (Spearman's); the last row is the share of cells in
    the same regime.

    Raises:
        ThreeRegimeError: as :func:`compare`.
    """
    both = compare_cells(diagram, reference)
    rows: list[dict[str, object]] = [
        {
            "metric": name,
            "cells": len(both),
            "mean here": both[name].mean(),
            "in the paper": both[f"{name}_reference"].mean(),
            "mean difference": both[f"{name}_difference"].mean(),
            "rank correlation": both[name].corr(both[f"{name}_reference"], method="spearman"),
        }
        for name in METRICS
        if both[f"{name}_reference"].notna().any()
    ]
    same = {"metric": "same regime", "cells": len(both), "mean here": both["same_regime"].mean()}
    return pd.DataFrame([*rows, same])
