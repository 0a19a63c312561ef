"""The boundary of Regime I without the whole diagram, by bisection over the temperature.

At a given load LMC falls with colder training, and a lighter load moves the boundary to colder
training (Figure 2c of the paper). Each load is therefore bisected, and a load between two known
ones only between their boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis.cells import format_value
from threeregime.analysis.phase_diagram import PhaseDiagram, check_lmc_threshold
from threeregime.analysis.thresholds import LMC_THRESHOLD
from threeregime.experiments import Experiment, hot_to_cold
from threeregime.results import Results, load_results, tables
from threeregime.sweep import is_complete, obtain_results

Cell = tuple[float, float]
Measure = Callable[[Sequence[Cell]], Mapping[Cell, float]]
"""LMC of cells (temperature, load); called once per round with all cells of the round."""


@dataclass(frozen=True)
class Boundary:
    """Temperatures at which LMC crosses its threshold, one for each load.

    Attributes:
        temperature: name of the temperature.
        load: name of the load.
        temperatures: the T temperatures of the grid, hot to cold.
        loads: the L loads, high to low.
        crossing: number of each load's temperatures, from the hottest on, in Regime II [L].
        lmc: LMC of the cells that were measured, in the order of measurement.
        rounds: number of calls of the measure.
    """

    temperature: str
    load: str
    temperatures: tuple[float, ...]
    loads: tuple[float, ...]
    crossing: tuple[int, ...]
    lmc: dict[Cell, float]
    rounds: int

    @property
    def in_regime_one(self) -> NDArray[np.bool_]:
        """Cells in Regime I [T, L], measured or not."""
        rows = np.arange(len(self.temperatures))[:, None]
        inside: NDArray[np.bool_] = rows >= np.array(self.crossing)
        return inside

    @property
    def share(self) -> float:
        """Measured cells as a share of the grid's."""
        return len(self.lmc) / self.in_regime_one.size

    def table(self) -> pd.DataFrame:
        """One row per load: the coldest temperature of Regime II and the hottest of Regime I."""
        rows = []
        for load, crossing in zip(self.loads, self.crossing, strict=True):
            sides = [
                format_value(self.temperature, self.temperatures[i])
                if 0 <= i < len(self.temperatures)
                else "none"
                for i in (crossing - 1, crossing)
            ]
            rows.append(
                (format_value(self.load, load), *sides, sum(x == load for _, x in self.lmc))
            )
        columns = [self.load, "coldest of II", "hottest of I", "cells measured"]
        return pd.DataFrame(rows, columns=columns)

    def agreement(self, diagram: PhaseDiagram) -> float:
        """Share of a whole diagram's cells that are on the right side of the boundary.

        NaN if no cell has a regime.
        """
        regime = diagram.grid("regime")
        known = pd.notna(regime)
        right = ((regime == "I") == self.in_regime_one)[known]
        return float(right.mean()) if right.size else np.nan


def follow_boundary(
    temperatures: Sequence[float],
    loads: Sequence[float],
    measure: Measure,
    threshold: float = LMC_THRESHOLD,
    axes: tuple[str, str] = ("epochs", "density"),
) -> Boundary:
    """Follow the boundary of Regime I.

    Args:
        temperatures: of the grid, hot to cold.
        loads: of the grid, high to low.
        measure: returns the LMC of cells; NaN counts as Regime I.
        threshold: of LMC.
        axes: names of temperature and load.
    """
    lmc: dict[Cell, float] = {}
    crossing: dict[int, int] = {}
    rounds = 0
    for level in _levels(len(loads)):
        # What is known: Regime II up to row low, Regime I from row high on.
        spans = {j: _span(crossing, j, len(temperatures)) for j in level}
        while middles := {j: (a + b) // 2 for j, (a, b) in spans.items() if b - a > 1}:
            cells = {j: (temperatures[i], loads[j]) for j, i in middles.items()}
            values = measure(list(cells.values()))
            rounds += 1
            for j, i in middles.items():
                lmc[cells[j]] = values[cells[j]]
                low, high = spans[j]
                spans[j] = (i, high) if lmc[cells[j]] >= threshold else (low, i)
        crossing.update({j: high for j, (_, high) in spans.items()})
    rows = tuple(crossing[j] for j in range(len(loads)))
    return Boundary(*axes, tuple(temperatures), tuple(loads), rows, lmc, rounds)


def _span(crossing: Mapping[int, int], j: int, count: int) -> tuple[int, int]:
    """Rows between which a load's boundary lies, given those of loads on both sides."""
    left = [row for k, row in crossing.items() if k < j]
    right = [row for k, row in crossing.items() if k > j]
    low, high = max(left, default=0) - 1, min(right, default=count)
    # Noise can bring neighbours into the wrong order.
    return min(low, high - 1), high


def _levels(count: int) -> list[list[int]]:
    """Indices from the ends inwards; each level halves the gaps between the earlier ones."""
    if count == 1:
        return [[0]]
    levels, known = [[0, count - 1]], {0, count - 1}
    while len(known) < count:
        level = [(a + b) // 2 for a, b in pairwise(sorted(known)) if b - a > 1]
        levels.append(level)
        known.update(level)
    return levels


def describe_boundary(
    experiment: Experiment,
    variant: str = "",
    threshold: float = LMC_THRESHOLD,
    device: str = "auto",
    recompute: bool = False,
) -> str:
    """Follow the boundary of an experiment, computing the missing cells, and describe it.

    If the tables hold the whole diagram, the description says how far the two agree.

    Args:
        experiment: the experiment.
        variant: name of the variant; empty: the only one.
        threshold: of LMC.
        device: cpu, cuda or auto.
        recompute: do not read the shipped tables.

    Raises:
        ThreeRegimeError: If there is no such variant or the threshold is out of range.
    """
    check_lmc_threshold(threshold)
    part = experiment.variant(variant)
    boundary = follow_boundary_of(part, lambda e: obtain_results(e, device, recompute), threshold)
    lines = [
        boundary.table().to_string(index=False),
        f"{len(boundary.lmc)} of {boundary.in_regime_one.size} cells measured "
        f"({boundary.share:.0%}), in {boundary.rounds} rounds",
    ]
    if not recompute and is_complete(part, tables.ROOT):
        results = load_results(part).variant(next(iter(part.variants)))
        diagram = PhaseDiagram.from_results(results, threshold, bootstrap=0)
        agreement = boundary.agreement(diagram)
        lines.append(f"the whole diagram is there too: it agrees in {agreement:.1%} of cells")
    return "\n".join(lines)


def follow_boundary_of(
    experiment: Experiment,
    obtain: Callable[[Experiment], Results],
    threshold: float = LMC_THRESHOLD,
) -> Boundary:
    """Follow the boundary of an experiment, obtaining only the cells that are needed.

    Args:
        experiment: an experiment of one variant.
        obtain: returns the tables of an experiment, e.g. `threeregime.sweep.obtain_results`.
        threshold: of LMC.
    """

    def measure(cells: Sequence[Cell]) -> dict[Cell, float]:
        pairs = obtain(experiment.with_cells(cells)).variant(next(iter(experiment.variants))).pairs
        means = pairs.groupby([experiment.temperature, experiment.load])["lmc"].mean()
        return {cell: float(means.get(cell, np.nan)) for cell in cells}

    axes = (experiment.temperature, experiment.load)
    temperatures = hot_to_cold(experiment.temperature, experiment.temperatures)
    return follow_boundary(temperatures, sorted(experiment.loads), measure, threshold, axes)
