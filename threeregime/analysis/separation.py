"""How well a metric predicts where a hotter dense run is better, at the end and early on."""

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
"""1 for a metric that is expected to be larger where hotter is better (Regime I), -1 for one that
is smaller: there nets are poorly connected, dissimilar, bad and in sharp valleys."""


def hotter_is_better(results: Results) -> pd.Series:
    """Whether the test error is lower at a temperature half the grid hotter, at the same load.

    As in `threeregime.algorithms.accuracy`: between neighbours on a fine grid the difference is
    mostly noise.

    Args:
        results: tables of one variant.

    Returns:
        Booleans by (temperature, load), for the cells in the colder half where both have a test
        error. Errors are means over all nets that did not diverge.
    """
    error = _means(results, results.nets, "test_error").unstack(results.load)
    error = error.sort_index(ascending=AXES[results.temperature].colder_up)
    gain = pd.Series((error - error.shift(len(error) // 2)).stack().dropna())
    return gain > 0


def separation_table(results: Results) -> pd.DataFrame:
    """How well each metric separates the cells where hotter is better from the others.

    LMC would predict Regime I perfectly, since a threshold on LMC defines it. The truth is
    therefore the purpose of the regimes: whether :func:`hotter_is_better`. The test error of a cell
    is part of that truth, with its noise, which favours ``test_error`` as a metric; the scores of
    the others are limited by the noise of the truth.

    Args:
        results: tables of one variant; ``early`` and the Hessian's columns are optional.

    Returns:
        One row per measured metric and early epoch: ``metric``; ``epoch`` of retraining after which
        it was measured (NaN: at its end); ``cells`` where truth and metric are known;
        ``hotter_better``, the number of them that are better when hotter; ``auc``, the area under
        the receiver operating characteristic: the probability that the metric, with its sign in
        :data:`SIGNS`, ranks a cell that is better when hotter above one that is not. 0.5 is
        guessing; NaN if all cells are of one kind.
    """
    return _separation(results, _tables(results))


def _separation(results: Results, tables: list[tuple[float, pd.DataFrame]]) -> pd.DataFrame:
    """Return the rows of :func:`separation_table` for some of the tables."""
    truth = hotter_is_better(results)
    rows = [
        {"metric": metric, "epoch": epoch, **_score(truth, sign * _means(results, table, metric))}
        for metric, sign in SIGNS.items()
        for epoch, table in tables
        if metric in table and table[metric].notna().any()
    ]
    return pd.DataFrame(rows, columns=["metric", "epoch", "cells", "hotter_better", "auc"])


def _tables(results: Results) -> list[tuple[float, pd.DataFrame]]:
    """Return the tables with metrics, each with its epoch of retraining; NaN: its end."""
    early, tables = results.early, [(np.nan, results.nets), (np.nan, results.pairs)]
    if len(early):
        tables += [(e, early[early["epoch"] == e]) for e in sorted(early["epoch"].unique())]
    return tables


def _means(results: Results, table: pd.DataFrame, metric: str) -> pd.Series:
    """Mean of a column in each cell, by (temperature, load)."""
    return table.groupby([results.temperature, results.load])[metric].mean()


def _score(truth: pd.Series, metric: pd.Series) -> dict[str, float]:
    table = pd.DataFrame({"truth": truth, "metric": metric}).dropna()
    better = table["truth"].to_numpy(dtype=bool)
    mixed = better.any() and not better.all()
    auc = float(roc_auc_score(better, table["metric"])) if mixed else np.nan
    return {"cells": len(table), "hotter_better": int(better.sum()), "auc": auc}


def areas_by_metric(results: Results, epoch: int | None = None) -> pd.Series:
    """Area under the ROC curve of each metric, after an epoch of retraining or at its end.

    NaN for a metric that was not measured.
    """
    tables = [
        (at, t) for at, t in _tables(results) if (np.isnan(at) if epoch is None else at == epoch)
    ]
    return _separation(results, tables).set_index("metric")["auc"].reindex(list(SIGNS))
