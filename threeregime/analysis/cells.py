"""From the long result tables to the numbers of each cell: means, replicates, values by seed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from threeregime.analysis import bootstrap as boot
from threeregime.analysis.bootstrap import Array
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES
from threeregime.results import Results

# The columns of the nets and of the pairs that become numbers of a cell.
OF_NETS, OF_PAIRS = ("test_error",), ("lmc", "cka_softmax", "cka_logits")
NORMALIZED = "normalized_test_error"
METRICS = (*OF_NETS, NORMALIZED, *OF_PAIRS)
# How a metric is printed: its name in the paper's words, its factor and its format.
PRINTED = {
    "test_error": ("Test error (%)", 100, ".1f"),
    "normalized_test_error": ("Normalized test error (%)", 100, ".2f"),
    "lmc": ("LMC", 1, ".3f"),
    "cka_softmax": ("CKA", 1, ".3f"),
    "cka_logits": ("CKA of logits", 1, ".3f"),
}


@dataclass(frozen=True, eq=False)
class Cells:
    """The numbers of C cells, metric by metric.

    Attributes:
        rows: temperature, load, n_nets, n_pairs and n_diverged of each cell, sorted.
        means: metric to means [C].
        replicates: metric to bootstrap means [B, C]; empty without seeds.
        by_seed: metric to the means of each dense seed [D, C]; empty without seeds.
    """

    rows: pd.DataFrame
    means: dict[str, Array]
    replicates: dict[str, Array] = field(default_factory=dict)
    by_seed: dict[str, Array] = field(default_factory=dict)


def cells_from_results(results: Results, bootstrap: int, seed: int) -> Cells:
    """Gather the cells of an experiment; see
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
    laid = [
        boot.blocks(nets, index, dense, ["retrain_seed"], OF_NETS),
        boot.blocks(pairs, index, dense, ["seed_a", "seed_b"], OF_PAIRS),
    ]
    rows = index.to_frame(index=False)
    rows["n_nets"] = np.isfinite(laid[0]["test_error"]).sum((1, 2))
    rows["n_pairs"] = np.isfinite(laid[1]["lmc"]).sum((1, 2))
    bad = nets.groupby(axes)["diverged"].sum()
    rows["n_diverged"] = bad.reindex(index, fill_value=0).to_numpy(dtype=int)
    cells = Cells(rows, {})
    drawn = boot.draw_dense(bootstrap, len(dense), seed)
    for inner, kind in enumerate(laid, start=seed + 1):
        cells.means.update({name: boot.mean(values, (1, 2)) for name, values in kind.items()})
        cells.by_seed.update({name: boot.mean(values, 2).T for name, values in kind.items()})
        if bootstrap:
            cells.replicates.update(boot.resample(kind, drawn, inner))
    return _normalize(cells, results.load)


def cells_from_means(table: pd.DataFrame, temperature: str, load: str) -> Cells:
    """Cells of which nothing is known but the means, columns test_error, lmc and cka."""
    table = table.sort_values([temperature, load], ignore_index=True)
    rows = table[[temperature, load]].assign(n_nets=0, n_pairs=0, n_diverged=0)
    named = {"test_error": "test_error", "lmc": "lmc", "cka_softmax": "cka"}
    means = {name: table[column].to_numpy(dtype=float) for name, column in named.items()}
    means["cka_logits"] = np.full(len(table), np.nan)
    return _normalize(Cells(rows, means), load)


def _mark_diverged(nets: pd.DataFrame) -> pd.DataFrame:
    """The nets with ``diverged`` set where the error is no number, and no error where it is set."""
    bad = ~np.isfinite(nets["test_error"].to_numpy(dtype=float, na_value=np.nan))
    if "diverged" in nets:
        bad |= nets["diverged"].to_numpy(dtype=bool)
    return nets.assign(diverged=bad, test_error=nets["test_error"].where(~bad))


def _normalize(cells: Cells, load: str) -> Cells:
    """Add the test error minus that of the load's best cell, which replicates hold fixed."""
    error, column = cells.means["test_error"], cells.rows[load].to_numpy()
    best = np.arange(len(column))
    for x in np.unique(column):
        inside = np.flatnonzero(column == x)
        known = inside[np.isfinite(error[inside])]
        best[inside] = known[np.argmin(error[known])] if known.size else inside[0]
    cells.means[NORMALIZED] = error - error[best]
    for values in (cells.replicates, cells.by_seed):
        if values:
            values[NORMALIZED] = values["test_error"] - values["test_error"][:, best]
    return cells


def format_value(axis: str, value: float) -> str:
    """A temperature or load as figures and tables print it: densities in percent, bits by name."""
    known = AXES[axis]
    if known.percent:
        return f"{100 * value:g} %"
    plural = "" if value == 1 else "s"
    return f"{value:g} {known.unit}{plural}" if known.unit else f"{value:g}"
