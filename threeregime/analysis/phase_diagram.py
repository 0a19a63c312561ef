"""The phase diagram: cell means with their intervals over seeds, and the three regimes.

Regime I is poorly connected, II-A well connected but less similar, II-B well connected and similar
(Section 3.2 of the paper): the first split is by LMC, the second by CKA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis.bootstrap import Array, interval
from threeregime.analysis.cells import (
    METRIC_FORMATS,
    METRICS,
    Cells,
    cells_from_means,
    cells_from_results,
    format_value,
)
from threeregime.analysis.thresholds import LMC_THRESHOLD, classify, otsu
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES, hot_to_cold
from threeregime.results import Results, TablesId, reference

PROBABILITY_COLUMNS = {"I": "p_I", "II-A": "p_IIA", "II-B": "p_IIB"}


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Test error, LMC, CKA and regime over temperature and load; see `from_results`.

    **Thresholds.** ``lmc_threshold`` is the paper's -0.05 (Section 4.1, Appendix C.1). The paper
    draws the line between II-A and II-B by eye. Here the default ``cka_threshold`` is `otsu`'s over
    the mean CKA of the well-connected cells: it has no constant to tune and does not use the test
    error, so that the regimes can be compared with it. On the paper's values it is 0.968, and 0.964
    to 0.975 if any one density or every fourth temperature is left out. It depends on the cells of
    the diagram, so compare two diagrams at one given threshold.

    **Intervals.** Means are over all nets (pairs) of a cell that did not diverge. The intervals are
    95 % percentile intervals of bootstrap replicates that draw dense seeds and then, inside them,
    nets or pairs. With three dense seeds they are too narrow: on normal noise, with three nets per
    seed, they covered the truth in 74 % of trials if nearly all noise is between the dense runs, in
    83 % if as much is within them and in 92 % if most is. ``p_I``, ``p_IIA`` and ``p_IIB`` are the
    fractions of replicates in which the cell is in that regime, at fixed thresholds. The interval
    of the normalised error is that of the difference to the load's best cell, which is held fixed.
    Without seeds (the reference) all of these are NaN.

    Attributes:
        title: heading: experiment and scale.
        temperature: name of the temperature, a column of ``cells``.
        load: name of the load, a column of ``cells``.
        cells: one row per cell: temperature and load, each of `METRICS` with ``_low`` and
            ``_high``, ``regime`` (None if all nets diverged or learned too little), ``p_I``,
            ``p_IIA``, ``p_IIB``, ``n_nets`` and ``n_pairs`` (of the means), ``n_diverged`` (nets
            left out) and ``no_nets`` (whether the nets learned too little).
        temperatures: the T temperatures, hot to cold.
        loads: the L loads in ascending order, which for a density is from high load to low.
        lmc_threshold: separates I from II.
        cka_threshold: separates II-A from II-B.
        cka_rule: where ``cka_threshold`` comes from: "Otsu" or "given".
        replicates: metric to bootstrap means [B, T, L]; empty without seeds.
        by_seed: metric to the means of each dense seed [D, T, L]; empty without seeds.
        total: temperature of the whole dense run; epochs are compared relative to it.
        error: unit of 100 times a test error: "%", of translations "100 - BLEU".
        tables_id: identifies the tables; None for the paper's own values.
    """

    title: str
    temperature: str
    load: str
    cells: pd.DataFrame
    temperatures: tuple[float, ...]
    loads: tuple[float, ...]
    lmc_threshold: float
    cka_threshold: float
    cka_rule: str
    replicates: Mapping[str, Array]
    by_seed: Mapping[str, Array]
    total: float
    error: str = "%"
    tables_id: TablesId | None = None

    @classmethod
    def from_results(
        cls,
        results: Results,
        lmc_threshold: float = LMC_THRESHOLD,
        cka_threshold: float | None = None,
        bootstrap: int = 1000,
        seed: int = 0,
        total: float | None = None,
        max_train_error: float = 1.0,
    ) -> PhaseDiagram:
        """Make the diagram of one experiment.

        Args:
            results: its tables; the attributes used are ``experiment``, ``scale``,
                ``temperature``, ``load``, ``nets``, ``pairs``, ``error`` and ``name``.
            lmc_threshold: a cell below it is in Regime I.
            cka_threshold: a well-connected cell at or above it is in II-B; None: by `otsu`.
            bootstrap: number of replicates; 0 leaves intervals and probabilities NaN.
            seed: of the replicates.
            total: temperature of the whole dense run; None: the coldest.
            max_train_error: a cell whose mean training error is above it holds no nets: it has no
                regime, and no part in ``cka_threshold``.

        Raises:
            ThreeRegimeError: If there are no nets, a row occurs twice, or a threshold is out of
                range.
        """
        cells = cells_from_results(results, bootstrap, seed, max_train_error)
        title = f"{results.experiment}, {results.scale}"
        axes = (results.temperature, results.load)
        diagram = _assemble(title, axes, cells, lmc_threshold, cka_threshold, total)
        return replace(diagram, error=results.error, tables_id=results.id)

    @classmethod
    def from_reference(
        cls,
        table: pd.DataFrame | None = None,
        lmc_threshold: float = LMC_THRESHOLD,
        cka_threshold: float | None = None,
    ) -> PhaseDiagram:
        """Make the diagram of the paper's Figure 2, of which only the means are published.

        Args:
            table: columns epochs, density, test_error, lmc, cka (of softmax outputs) as fractions;
                None: the table that comes with the package.
            lmc_threshold: as in `from_results`.
            cka_threshold: as in `from_results`.
        """
        axes = ("epochs", "density")
        cells = cells_from_means(reference() if table is None else table, *axes)
        return _assemble("the paper's Figure 2", axes, cells, lmc_threshold, cka_threshold, None)

    @property
    def has_seeds(self) -> bool:
        """True if there are replicates, and with them intervals and probabilities."""
        return bool(self.replicates)

    def column_title(self, column: str) -> str:
        """Name of a column of ``cells`` for headings."""
        if column not in METRIC_FORMATS:
            return column
        return METRIC_FORMATS[column][0].replace("%", self.error)

    def grid(self, column: str) -> NDArray[Any]:
        """A column of ``cells`` as [T, L], hot to cold by ascending load; NaN or None if absent."""
        axes = (self.temperature, self.load)
        index = _grid_index(self.cells, axes, self.temperatures, self.loads)
        categorical = column in ("regime", "no_nets")
        shape = (len(self.temperatures), len(self.loads))
        grid = np.full(
            shape, None if categorical else np.nan, dtype=object if categorical else float
        )
        grid[index] = self.cells[column].to_numpy()
        return grid

    def table(self, columns: Sequence[str] = ("test_error", "lmc", "cka_softmax", "regime")) -> str:
        """Columns of ``cells`` as text, one block per column; test errors in percent."""
        head = pd.Index([format_value(self.load, x) for x in self.loads], name=self.load)
        labels = pd.Index([f"{t:g}" for t in self.temperatures], name=self.temperature)
        blocks = []
        for column in columns:
            _, factor, form = METRIC_FORMATS.get(column, (column, 1, ".2f"))
            form = "" if column == "regime" else form
            text = [
                ["-" if pd.isna(x) else format(x * factor if form else x, form) for x in row]
                for row in self.grid(column)
            ]
            block = pd.DataFrame(text, index=labels, columns=head).to_string()
            title = f"{self.column_title(column)} ({self.temperature} from hot to cold)"
            blocks.append(f"{title}\n{block}")
        return "\n\n".join(blocks)


def _assemble(
    title: str,
    axes: tuple[str, str],
    cells: Cells,
    lmc_threshold: float,
    cka_threshold: float | None,
    total: float | None,
) -> PhaseDiagram:
    """Make the diagram from its cells."""
    _check_options(axes, lmc_threshold, cka_threshold)
    rule = "given"
    if cka_threshold is None:
        connected = (cells.means["lmc"] >= lmc_threshold) & ~cells.rows["no_nets"].to_numpy()
        rule, cka_threshold = "Otsu", otsu(cells.means["cka_softmax"][connected])
    rows = _cell_table(cells, lmc_threshold, cka_threshold)
    temperatures = hot_to_cold(axes[0], np.unique(rows[axes[0]]).tolist())
    loads = tuple(np.unique(rows[axes[1]]).tolist())
    index = _grid_index(rows, axes, temperatures, loads)
    shape = (len(temperatures), len(loads))

    def to_grids(values: Mapping[str, Array]) -> dict[str, Array]:
        grids = {name: np.full((len(v), *shape), np.nan) for name, v in values.items()}
        for name, grid in grids.items():
            grid[:, *index] = values[name]
        return grids

    return PhaseDiagram(
        title,
        *axes,
        rows,
        temperatures,
        loads,
        float(lmc_threshold),
        float(cka_threshold),
        rule,
        to_grids(cells.replicates),
        to_grids(cells.by_seed),
        float(temperatures[-1] if total is None else total),
    )


def _check_options(
    axes: tuple[str, str], lmc_threshold: float, cka_threshold: float | None
) -> None:
    check_lmc_threshold(lmc_threshold)
    if cka_threshold is not None and not 0 <= cka_threshold <= 1:
        raise ThreeRegimeError(f"cka_threshold = {cka_threshold} is not allowed: from 0 to 1")
    for axis in axes:
        if axis not in AXES:
            raise ThreeRegimeError(f"{axis!r} is not an axis: one of {', '.join(AXES)}")


def check_lmc_threshold(threshold: float) -> None:
    """Raise a ThreeRegimeError if a threshold of LMC is out of range."""
    if not -1 <= threshold <= 0:
        raise ThreeRegimeError(f"lmc_threshold = {threshold} is not allowed: from -1 to 0")


def _cell_table(cells: Cells, lmc_threshold: float, cka_threshold: float) -> pd.DataFrame:
    """The rows of `PhaseDiagram.cells`: means, intervals, regimes and their probabilities."""
    rows, means, replicates = cells.rows.copy(), cells.means, cells.replicates
    for name in METRICS:
        low, high = interval(replicates.get(name, np.empty((0, len(rows)))))
        rows[name], rows[f"{name}_low"], rows[f"{name}_high"] = means[name], low, high
    regime = classify(means["lmc"], means["cka_softmax"], lmc_threshold, cka_threshold)
    rows["regime"] = pd.Series(regime, index=rows.index, dtype=object).where(~rows["no_nets"], None)
    for column in PROBABILITY_COLUMNS.values():
        rows[column] = np.nan
    if replicates:
        votes = classify(replicates["lmc"], replicates["cka_softmax"], lmc_threshold, cka_threshold)
        counts = {column: (votes == name).sum(0) for name, column in PROBABILITY_COLUMNS.items()}
        known = np.maximum(sum(counts.values()), 1)
        for column, count in counts.items():
            rows[column] = np.where(rows["regime"].notna(), count / known, np.nan)
    return rows


def _grid_index(
    rows: pd.DataFrame, axes: tuple[str, str], temperatures: Sequence[float], loads: Sequence[float]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row and column of each cell in the grid."""
    row, column = (
        pd.Index(values).get_indexer(pd.Index(rows[axis]))
        for axis, values in zip(axes, (temperatures, loads), strict=True)
    )
    return row, column
