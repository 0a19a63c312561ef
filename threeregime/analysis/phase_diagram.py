"""The phase diagram: cell means with their spread over seeds, and the three regimes.

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

from threeregime.analysis import cells as gather
from threeregime.analysis.bootstrap import Array, interval
from threeregime.analysis.cells import METRICS, PRINTED, format_value
from threeregime.analysis.thresholds import LMC_THRESHOLD, classify, otsu
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES, hot_to_cold
from threeregime.results import Results, TablesId, reference

PROBABILITY_COLUMNS = {"I": "p_I", "II-A": "p_IIA", "II-B": "p_IIB"}


@dataclass(frozen=True, eq=False)
class PhaseDiagram:
    """Test error, LMC, CKA and regime over temperature and load; see `from_results`.

    **Thresholds.** ``lmc_threshold`` is the paper's -0.05 (Section 4.1, Appendix C.1).
    The paper draws the line between II-A and II-B by eye. Here the default ``cka_threshold`` is
    `otsu`'s over the mean CKA of the well-connected cells, one number a diagram: it has no constant
    to tune and never looks at the test error, so that the regimes stay free to say something about
    it. On the paper's values it is 0.968, and 0.964 to 0.975 when any one density or every fourth
    temperature is left out. It follows the cells that are in the diagram, so compare two diagrams
    at one given threshold. ``cka_rule`` says which it is, "Otsu" or "given".

    **Spread.** Means are over all nets (pairs) of a cell that did not diverge. Intervals are 95 %
    percentile intervals of bootstrap replicates that draw dense seeds and then, inside them, nets
    or pairs. With three dense seeds such intervals are too narrow: on normal noise, with three nets
    in each, they covered the truth in 74 % of trials where nearly all noise lies between the dense
    runs, in 83 % where as much lies within and in 92 % where most does. ``p_I``, ``p_IIA`` and
    ``p_IIB`` are the fractions of replicates that put the cell in that regime, at thresholds held
    fixed. The interval of the normalised error is that of the difference to the load's best cell,
    itself held fixed. Without seeds (the reference) all of these are NaN.

    Attributes:
        title: what is shown, for headings.
        temperature: name of the temperature, a column of ``cells``.
        load: name of the load, a column of ``cells``.
        cells: one row a cell: temperature and load, each of `METRICS` with ``_low`` and ``_high``,
            ``regime`` (None where all nets diverged), ``p_I``, ``p_IIA``, ``p_IIB``, ``n_nets`` and
            ``n_pairs`` (that the means are over) and ``n_diverged`` (nets left out).
        temperatures: the T temperatures, hot to cold.
        loads: the L loads in ascending order, which for a density is from high load to low.
        lmc_threshold: the split of I from II.
        cka_threshold: the split of II-A from II-B.
        cka_rule: "Otsu" or "given".
        replicates: metric to bootstrap means [B, T, L]; empty without seeds.
        by_seed: metric to the means of each dense seed [D, T, L]; empty without seeds.
        total: the temperature of the whole dense run; epochs are compared relative to it.
        error: what 100 times a test error is: "%", of translations "100 - BLEU".
        made_from: the tables; None of the paper's own values.
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
    ) -> PhaseDiagram:
        """Make the diagram of one experiment.

        Args:
            results: its tables; the attributes used are ``experiment``, ``scale``,
                ``temperature``, ``load``, ``nets``, ``pairs``, ``error`` and ``name``.
            lmc_threshold: below it a cell is in Regime I.
            cka_threshold: from it on a well-connected cell is in II-B; None takes `otsu`'s.
            bootstrap: number of replicates; 0 leaves intervals and probabilities NaN.
            seed: of the replicates.
            total: temperature of the whole dense run; None takes the coldest.

        Raises:
            ThreeRegimeError: no nets, a row twice, or a threshold out of its range.
        """
        found = gather.cells_from_results(results, bootstrap, seed)
        title = f"{results.experiment}, {results.scale}"
        axes = (results.temperature, results.load)
        made = _assemble(title, axes, found, lmc_threshold, cka_threshold, total)
        return replace(made, error=results.error, tables_id=results.id)

    @classmethod
    def from_reference(
        cls,
        table: pd.DataFrame | None = None,
        lmc_threshold: float = LMC_THRESHOLD,
        cka_threshold: float | None = None,
    ) -> PhaseDiagram:
        """Make the diagram of the paper's own Figure 2, of which only the means are published.

        Args:
            table: columns epochs, density, test_error, lmc, cka (of softmax outputs) as fractions;
                None takes the table that comes with the package.
            lmc_threshold: as in `from_results`.
            cka_threshold: as in `from_results`.
        """
        axes = ("epochs", "density")
        found = gather.cells_from_means(reference() if table is None else table, *axes)
        return _assemble("the paper's Figure 2", axes, found, lmc_threshold, cka_threshold, None)

    @property
    def has_seeds(self) -> bool:
        """Whether there are replicates, thus intervals and probabilities."""
        return bool(self.replicates)

    def column_title(self, column: str) -> str:
        """The name of a column of ``cells`` in print."""
        return PRINTED[column][0].replace("%", self.error) if column in PRINTED else column

    def grid(self, column: str) -> NDArray[Any]:
        """A column of ``cells`` as [T, L], hot to cold by ascending load; absent is NaN or None."""
        at = _places(self.cells, (self.temperature, self.load), self.temperatures, self.loads)
        names = column == "regime"
        shape = (len(self.temperatures), len(self.loads))
        grid = np.full(shape, None if names else np.nan, dtype=object if names else float)
        grid[at] = self.cells[column].to_numpy()
        return grid

    def table(self, columns: Sequence[str] = ("test_error", "lmc", "cka_softmax", "regime")) -> str:
        """The numbers of the figures as text, a block a column, for printing.

        Args:
            columns: columns of ``cells``; test errors are printed in percent.
        """
        head = [format_value(self.load, x) for x in self.loads]
        parts = []
        for column in columns:
            _, factor, form = PRINTED.get(column, (column, 1, ".2f"))
            name = self.column_title(column)
            form = "" if column == "regime" else form
            text = [
                ["-" if pd.isna(x) else format(x * factor if form else x, form) for x in row]
                for row in self.grid(column)
            ]
            labels = pd.Index([f"{t:g}" for t in self.temperatures], name=self.temperature)
            block = pd.DataFrame(text, index=labels, columns=pd.Index(head, name=self.load))
            parts.append(f"{name} ({self.temperature} from hot to cold)\n{block.to_string()}")
        return "\n\n".join(parts)


def _assemble(
    title: str,
    axes: tuple[str, str],
    found: gather.Cells,
    lmc_threshold: float,
    cka_threshold: float | None,
    total: float | None,
) -> PhaseDiagram:
    """Make the diagram of gathered cells: thresholds, regimes, intervals, grids."""
    if not -1 <= lmc_threshold <= 0:
        raise ThreeRegimeError(f"lmc_threshold = {lmc_threshold} is not allowed: from -1 to 0")
    if cka_threshold is not None and not 0 <= cka_threshold <= 1:
        raise ThreeRegimeError(f"cka_threshold = {cka_threshold} is not allowed: from 0 to 1")
    for axis in axes:
        if axis not in AXES:
            raise ThreeRegimeError(f"{axis!r} is not an axis: one of {', '.join(AXES)}")
    rows, means, drawn = found.rows.copy(), found.means, found.replicates
    rule = "given"
    if cka_threshold is None:
        rule, cka_threshold = "Otsu", otsu(means["cka_softmax"][means["lmc"] >= lmc_threshold])
    for name in METRICS:
        low, high = interval(drawn.get(name, np.empty((0, len(rows)))))
        rows[name], rows[f"{name}_low"], rows[f"{name}_high"] = means[name], low, high
    regime = classify(means["lmc"], means["cka_softmax"], lmc_threshold, cka_threshold)
    rows["regime"] = pd.Series(regime, index=rows.index, dtype=object)
    for column in PROBABILITY_COLUMNS.values():
        rows[column] = np.nan
    if drawn:
        votes = classify(drawn["lmc"], drawn["cka_softmax"], lmc_threshold, cka_threshold)
        wins = {column: (votes == name).sum(0) for name, column in PROBABILITY_COLUMNS.items()}
        known = np.maximum(sum(wins.values()), 1)
        for column, count in wins.items():
            rows[column] = np.where(rows["regime"].notna(), count / known, np.nan)
    temperatures = hot_to_cold(axes[0], np.unique(rows[axes[0]]).tolist())
    loads = tuple(np.unique(rows[axes[1]]).tolist())
    at = _places(rows, axes, temperatures, loads)
    shape = (len(temperatures), len(loads))

    def lay(values: Mapping[str, Array]) -> dict[str, Array]:
        grids = {name: np.full((len(v), *shape), np.nan) for name, v in values.items()}
        for name, grid in grids.items():
            grid[:, *at] = values[name]
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
        lay(drawn),
        lay(found.by_seed),
        float(temperatures[-1] if total is None else total),
    )


def _places(
    rows: pd.DataFrame, axes: tuple[str, str], temperatures: Sequence[float], loads: Sequence[float]
) -> tuple[list[int], list[int]]:
    """Row and column of each cell in the grid."""
    row, col = ({x: i for i, x in enumerate(values)} for values in (temperatures, loads))
    return [row[t] for t in rows[axes[0]]], [col[x] for x in rows[axes[1]]]
