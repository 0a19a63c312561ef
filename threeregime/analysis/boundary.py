"""The boundary of Regime I without the whole diagram: bisection over the temperature.

Along a load LMC falls with colder training, and a lighter load moves the boundary to colder
training (Figure 2c of the paper). So each load is bisected, and the loads between two that are
known are bisected between their boundaries alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis.cells import format_value
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import LMC_THRESHOLD
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment, hot_to_cold
from threeregime.results import Results, load_results, tables
from threeregime.sweep import is_complete, obtain_results

Cell = tuple[float, float]
Measure = Callable[[Sequence[Cell]], Mapping[Cell, float]]
"""LMC of cells (temperature, load); called once a round with all that the round needs."""


@dataclass(frozen=True)
class Boundary:
    """Where LMC crosses its threshold, load by load.

    Attributes:
        temperature: name of the temperature.
        load: name of the load.
        temperatures: the T temperatures of the grid, hot to cold.
        loads: the L loads, high to low.
        crossing: how many of a load's temperatures, from the hottest on, are in Regime II [L].
        measured: LMC of the cells that were asked for, in that order.
        rounds: how often the measure was called.
    """

    temperature: str
    load: str
    temperatures: tuple[float, ...]
    loads: tuple[float, ...]
    crossing: tuple[int, ...]
    measured: dict[Cell, float]
    rounds: int

    @property
    def in_one(self) -> NDArray[np.bool_]:
        """Which cells are in Regime I [T, L], measured or not."""
        rows = np.arange(len(self.temperatures))[:, None]
        inside: NDArray[np.bool_] = rows >= np.array(self.crossing)
        return inside

    @property
    def share(self) -> float:
        """Measured cells as a share of the grid's."""
        return len(self.measured) / (len(self.temperatures) * len(self.loads))

    def table(self) -> pd.DataFrame:
        """One row a load: the coldest temperature of Regime II and the hottest of Regime I."""
        rows = []
        for load, crossing in zip(self.loads, self.crossing, strict=True):
            sides = [
                format_value(self.temperature, self.temperatures[i])
                if 0 <= i < len(self.temperatures)
                else "none"
                for i in (crossing - 1, crossing)
            ]
            measured = sum(x == load for _, x in self.measured)
            rows.append((format_value(self.load, load), *sides, measured))
        columns = [self.load, "coldest of II", "hottest of I", "cells measured"]
        return pd.DataFrame(rows, columns=columns)

    def agreement(self, diagram: PhaseDiagram) -> float:
        """Share of a whole diagram's cells that are on the side of the boundary they should be."""
        regime = diagram.grid("regime")
        known = pd.notna(regime)
        return float(((regime == "I") == self.in_one)[known].mean())


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
        measure: gives the LMC of cells. One that is no number counts as Regime I.
        threshold: of LMC.
        axes: names of temperature and load.
    """
    measured: dict[Cell, float] = {}
    crossing: dict[int, int] = {}
    rounds = 0
    for level in _levels(len(loads)):
        # What is known: Regime II up to row low, Regime I from row high on.
        spans = {j: _between(crossing, j, len(temperatures)) for j in level}
        while middles := {j: (a + b) // 2 for j, (a, b) in spans.items() if b - a > 1}:
            cells = {j: (temperatures[i], loads[j]) for j, i in middles.items()}
            found = measure(list(cells.values()))
            rounds += 1
            for j, i in middles.items():
                lmc = found[cells[j]]
                measured[cells[j]] = lmc
                low, high = spans[j]
                spans[j] = (i, high) if lmc >= threshold else (low, i)
        crossing.update({j: high for j, (_, high) in spans.items()})
    ordered = tuple(crossing[j] for j in range(len(loads)))
    return Boundary(*axes, tuple(temperatures), tuple(loads), ordered, measured, rounds)


def _between(crossing: Mapping[int, int], j: int, count: int) -> tuple[int, int]:
    """Rows between which a load's boundary lies, given those of loads on both sides."""
    left = [crossing[k] for k in crossing if k < j]
    right = [crossing[k] for k in crossing if k > j]
    low, high = max(left, default=0) - 1, min(right, default=count)
    # Noise can bring neighbours into the wrong order.
    return min(low, high - 1), high


def _levels(count: int) -> list[list[int]]:
    """Indices from the ends inwards, each level halving what lies between the last ones."""
    if count == 1:
        return [[0]]
    levels, known = [[0, count - 1]], {0, count - 1}
    while len(known) < count:
        done = sorted(known)
        level = [(a + b) // 2 for a, b in pairwise(done) if b - a > 1]
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
    """Follow the boundary of an experiment, computing what is needed and not there; say it.

    Where the tables hold the whole diagram it is said how far the two agree.

    Args:
        experiment: what is wanted.
        variant: which of its variants; empty: its only one.
        threshold: of LMC.
        device: cpu, cuda or auto.
        recompute: leave the shipped tables aside.

    Raises:
        ThreeRegimeError: no such variant, or a threshold out of its range.
    """
    if not -1 <= threshold <= 0:
        raise ThreeRegimeError(f"lmc_threshold = {threshold} is not allowed: from -1 to 0")
    one = experiment.variant(variant)
    found = follow_boundary_of(one, lambda e: obtain_results(e, device, recompute), threshold)
    lines = [
        found.table().to_string(index=False),
        f"{len(found.measured)} of {found.in_one.size} cells measured ({found.share:.0%}), in "
        f"{found.rounds} rounds",
    ]
    if not recompute and is_complete(one, tables.ROOT):
        whole = load_results(one).variant(next(iter(one.variants)))
        diagram = PhaseDiagram.from_results(whole, threshold, bootstrap=0)
        lines.append(
            f"the whole diagram is there too: it agrees in {found.agreement(diagram):.1%} of cells"
        )
    return "\n".join(lines)


def follow_boundary_of(
    experiment: Experiment,
    obtain: Callable[[Experiment], Results],
    threshold: float = LMC_THRESHOLD,
) -> Boundary:
    """Follow the boundary of an experiment, computing the cells that are needed.

    Args:
        experiment: of one variant.
        obtain: gives the tables of an experiment, e.g. :func:`threeregime.sweep.obtain_results`.
        threshold: of LMC.
    """

    def measure(cells: Sequence[Cell]) -> dict[Cell, float]:
        pairs = obtain(experiment.with_cells(cells)).variant(next(iter(experiment.variants))).pairs
        means = pairs.groupby([experiment.temperature, experiment.load])["lmc"].mean()
        return {cell: float(means.get(cell, np.nan)) for cell in cells}

    names = (experiment.temperature, experiment.load)
    temperatures = hot_to_cold(experiment.temperature, experiment.temperatures)
    return follow_boundary(temperatures, sorted(experiment.loads), measure, threshold, names)
