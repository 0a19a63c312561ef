"""How well a metric tells where a hotter dense run would be better, at the end and early on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from threeregime.experiments import AXES
from threeregime.results import Results

SIGNS = {
    "lmc": -1,
    "cka_softmax": -1,
    "cka_logits": -1,
    "test_error": 1,
    "train_error": 1,
    "hessian_trace": 1,
    "hessian_top": 1,
}
"""1 for a metric that is thought to be larger where hotter is better (Regime I), -1 for one that is
smaller: there nets are poorly connected, unlike each other, bad and in sharp valleys."""


def hotter_is_better(results: Results) -> pd.Series:
    """Whether the test error is lower at a temperature half the grid hotter, at the same load.

    As in `threeregime.algorithms.accuracy`: between neighbours on a fine grid the difference is
    mostly noise.

    Args:
        results: tables of one variant.

    Returns:
        Bool by (temperature, load), of the cells in the colder half where both have a test error.
        Errors are means over all nets that did not diverge.
    """
    error = _means(results, results.nets, "test_error").unstack(results.load)
    colder_up = AXES[results.temperature].colder_up
    error = error.sort_index(ascending=colder_up)
    gain = pd.Series((error - error.shift(len(error) // 2)).stack().dropna())
    return gain > 0


def separation_table(results: Results) -> pd.DataFrame:
    """How well each metric separates the cells where hotter is better from the others.

    Defined by a threshold on LMC, Regime I is told by LMC without a fault. So the truth here is
    what the regimes are for: whether :func:`hotter_is_better`. The test error of a cell is part of
    that truth, chance and all, which flatters ``test_error`` as a metric; of the others the score
    is limited by the noise of the truth.

    Args:
        results: tables of one variant; ``early`` and the Hessian's columns may be there or not.

    Returns:
        One row a metric that was measured and early epoch: ``metric``; ``epoch`` of retraining
        after which it was taken (NaN: at its end); ``cells`` where truth and metric are known;
        ``hotter_better``, how many of them are better when hotter; ``auc``, the area under the
        receiver operating characteristic, the chance that of a cell that is and one that is not
        better when hotter the metric, with its sign in :data:`SIGNS`, tells which is which. 0.5 is
        guessing, below it the metric goes the other way; NaN where cells are all of one kind.
    """
    truth = hotter_is_better(results)
    early, tables = results.early, [(np.nan, results.nets), (np.nan, results.pairs)]
    if len(early):
        tables += [(e, early[early["epoch"] == e]) for e in sorted(early["epoch"].unique())]
    return pd.DataFrame(
        {"metric": metric, "epoch": epoch, **_score(truth, sign * _means(results, table, metric))}
        for metric, sign in SIGNS.items()
        for epoch, table in tables
        if metric in table and table[metric].notna().any()
    )


def _means(results: Results, table: pd.DataFrame, metric: str) -> pd.Series:
    """Mean of a column of each cell, by (temperature, load)."""
    return table.groupby([results.temperature, results.load])[metric].mean()


def _score(truth: pd.Series, metric: pd.Series) -> dict[str, float]:
    both = pd.DataFrame({"truth": truth, "metric": metric}).dropna()
    better = both["truth"].to_numpy(dtype=bool)
    mixed = better.any() and not better.all()
    auc = float(roc_auc_score(better, both["metric"])) if mixed else np.nan
    return {"cells": len(both), "hotter_better": int(better.sum()), "auc": auc}


def areas_by_metric(tables: Results, epoch: int | None = None) -> pd.Series:
    """Area under the ROC curve of each metric, after an epoch of retraining or at its end."""
    found = separation_table(tables)
    at = found["epoch"].isna() if epoch is None else found["epoch"] == epoch
    return found[at].set_index("metric")["auc"]
