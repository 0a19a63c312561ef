"""Cells of a phase diagram from the long result tables: means, replicates, values by seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from threeregime.analysis import bootstrap as boot
from threeregime.analysis.bootstrap import Array
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES
from threeregime.results import Results

# Columns of the nets and of the pairs that are averaged over a cell.
NET_METRICS, PAIR_METRICS = ("test_error",), ("lmc", "cka_softmax", "cka_logits")
NORMALIZED_ERROR = "normalized_test_error"
METRICS = (*NET_METRICS, NORMALIZED_ERROR, *PAIR_METRICS)
METRIC_FORMATS = {
    "test_error": ("Test error (%)", 100, ".1f"),
    "normalized_test_error": ("Normalized test error (%)", 100, ".2f"),
    "lmc": ("LMC", 1, ".3f"),
    "cka_softmax": ("CKA", 1, ".3f"),
    "cka_logits": ("CKA of logits", 1, ".3f"),
}
"""How a metric is printed: its name in the paper, the factor to its unit, and the number format."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Values of C cells for each metric.

    Attributes:
        rows: temperature, load, n_nets, n_pairs, n_diverged and no_nets of each cell, sorted.
        means: metric to means [C].
        replicates: metric to bootstrap means [B, C]; empty without seeds.
        by_seed: metric to the means of each dense seed [D, C]; empty without seeds.
    """

    rows: pd.DataFrame
    means: dict[str, Array]
    replicates: dict[str, Array] = field(default_factory=dict)
    by_seed: dict[str, Array] = field(default_factory=dict)


def cells_from_results(
    results: Results, bootstrap: int, seed: int, max_train_error: float = 1.0
) -> Cells:
    """Collect the cells of an experiment; see
    `threeregime.analysis.phase_diagram.PhaseDiagram.from_results`.
    """
    axes = [results.temperature, results.load]
    if results.nets.empty or results.pairs.empty:
        raise ThreeRegimeError(f"{results.experiment} has no nets and pairs: run its sweep first")
    nets, pairs = _mark_diverged(results.nets), results.pairs.copy()
    # A pair of copies is the same whichever of the two comes first.
    first, second = pairs["seed_a"], pairs["seed_b"]
    pairs["seed_a"], pairs["seed_b"] = np.minimum(first, second), np.maximum(first, second)
    keys = pd.concat([nets[axes], pairs[axes]]).drop_duplicates()
    index = pd.MultiIndex.from_frame(keys.sort_values(axes))
    dense = sorted({*nets["dense_seed"], *pairs["dense_seed"]})
    net_arrays = boot.table_to_arrays(nets, index, dense, ["retrain_seed"], NET_METRICS)
    pair_arrays = boot.table_to_arrays(pairs, index, dense, ["seed_a", "seed_b"], PAIR_METRICS)
    rows = index.to_frame(index=False)
    rows["n_nets"] = np.isfinite(net_arrays["test_error"]).sum((1, 2))
    rows["n_pairs"] = np.isfinite(pair_arrays["lmc"]).sum((1, 2))
    diverged = nets.groupby(axes)["diverged"].sum()
    rows["n_diverged"] = diverged.reindex(index, fill_value=0).to_numpy(dtype=int)
    no_nets = holds_no_nets(results, max_train_error)
    rows["no_nets"] = no_nets.reindex(index, fill_value=False).to_numpy(dtype=bool)
    cells = Cells(rows, {})
    dense_draws = boot.draw_dense_seeds(bootstrap, len(dense), seed)
    for inner_seed, arrays in enumerate((net_arrays, pair_arrays), start=seed + 1):
        cells.means.update({name: boot.mean(values, (1, 2)) for name, values in arrays.items()})
        cells.by_seed.update({name: boot.mean(values, 2).T for name, values in arrays.items()})
        if bootstrap:
            cells.replicates.update(boot.resample(arrays, dense_draws, inner_seed))
    return _normalize(cells, results.load)


def cells_from_means(table: pd.DataFrame, temperature: str, load: str) -> Cells:
    """Cells of which only the means are known: columns test_error, lmc and cka."""
    table = table.sort_values([temperature, load], ignore_index=True)
    rows = table[[temperature, load]].assign(n_nets=0, n_pairs=0, n_diverged=0, no_nets=False)
    columns = {"test_error": "test_error", "lmc": "lmc", "cka_softmax": "cka"}
    means = {name: table[column].to_numpy(dtype=float) for name, column in columns.items()}
    means["cka_logits"] = np.full(len(table), np.nan)
    return _normalize(Cells(rows, means), load)


def holds_no_nets(results: Results, max_train_error: float) -> pd.Series:
    """Mark the cells whose nets have learned too little, by (temperature, load).

    Two nets at chance answer alike and are connected: LMC and CKA would call them good.
    """
    axes = [results.temperature, results.load]
    return results.nets.groupby(axes)["train_error"].mean() > max_train_error


def _mark_diverged(nets: pd.DataFrame) -> pd.DataFrame:
    """Set ``diverged`` where the error is not finite, and the error to NaN where it is set."""
    diverged = ~np.isfinite(nets["test_error"].to_numpy(dtype=float, na_value=np.nan))
    if "diverged" in nets:
        diverged |= nets["diverged"].to_numpy(dtype=bool)
    return nets.assign(diverged=diverged, test_error=nets["test_error"].where(~diverged))


def _normalize(cells: Cells, load: str) -> Cells:
    """Add the test error minus that of the load's best cell, which replicates hold fixed."""
    error, column = cells.means["test_error"], cells.rows[load].to_numpy()
    best = np.arange(len(column))
    for x in np.unique(column):
        inside = np.flatnonzero(column == x)
        known = inside[np.isfinite(error[inside])]
        best[inside] = known[np.argmin(error[known])] if known.size else inside[0]
    cells.means[NORMALIZED_ERROR] = error - error[best]
    for values in (cells.replicates, cells.by_seed):
        if values:
            values[NORMALIZED_ERROR] = values["test_error"] - values["test_error"][:, best]
    return cells


def format_value(axis: str, value: float) -> str:
    """Format a temperature or load for figures and tables: fractions in percent, units by name."""
    unit = AXES[axis].unit
    if AXES[axis].percent:
        return f"{100 * value:g} %"
    plural = "" if value == 1 else "s"
    return f"{value:g} {unit}{plural}" if unit else f"{value:g}"
