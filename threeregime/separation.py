"""How well a metric tells where a hotter dense run would be better, at the end and early on."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from threeregime.axes import AXES
from threeregime.judging import Statement, judge_seeds
from threeregime.results import Results
from threeregime.selection import EARLY_EPOCHS

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

    As in `threeregime.tuning`: between neighbours on a fine grid the difference is mostly noise.

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


def separation(results: Results) -> pd.DataFrame:
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


def local_metrics(tables: Results) -> tuple[Statement, ...]:
    """The Hessian does not tell the regimes as LMC and CKA do (Appendix A.2)."""
    found = []
    seeds = sorted(tables.nets["dense_seed"].unique())
    areas = pd.DataFrame([_areas(tables.with_dense_seeds([seed])) for seed in seeds])
    whole = _areas(tables)
    for local, name in (("hessian_trace", "trace"), ("hessian_top", "leading eigenvalue")):
        if local not in areas:
            continue
        for metric, printed in (("lmc", "LMC"), ("cka_softmax", "CKA")):
            found.append(
                judge_seeds(
                    f"{metric}_beats_{local}",
                    f"{printed} tells where hotter is better, the Hessian's {name} less well.",
                    (areas[metric] - areas[local]).to_numpy(),
                    "Effect: difference of the areas under the ROC curve, by dense seed; on all "
                    f"seeds together {whole[metric]:.2f} and {whole[local]:.2f}.",
                )
            )
    return tuple(found)


def early_metrics(tables: Results, alpha: int = EARLY_EPOCHS) -> tuple[Statement, ...]:
    """LMC and CKA tell early in retraining where hotter is better (Section 4.2).

    Args:
        tables: of one variant, with what was measured after ``alpha`` epochs.
        alpha: epochs of retraining.
    """
    seeds = sorted(tables.nets["dense_seed"].unique())
    early, end = (
        pd.DataFrame([_areas(tables.with_dense_seeds([seed]), epoch) for seed in seeds])
        for epoch in (alpha, None)
    )
    whole, at_end = _areas(tables, alpha), _areas(tables)
    found = []
    for metric, name in (("lmc", "LMC"), ("cka_softmax", "CKA")):
        known = f"on all seeds together {whole[metric]:.2f}, at the end {at_end[metric]:.2f}"
        found += [
            judge_seeds(
                f"{metric}_early",
                f"After {alpha} epochs of retraining {name} tells where hotter is better.",
                (early[metric] - 0.5).to_numpy(),
                f"Effect: area under the ROC curve, by dense seed, minus 0.5; {known}.",
            ),
            judge_seeds(
                f"{metric}_early_as_at_end",
                f"After {alpha} epochs {name} tells it better than at the end.",
                (early[metric] - end[metric]).to_numpy(),
                f"Effect: area after {alpha} epochs minus that at the end; {known}.",
            ),
        ]
    return tuple(found)


def _areas(tables: Results, epoch: int | None = None) -> pd.Series:
    """Area under the ROC curve of each metric, after an epoch of retraining or at its end."""
    found = separation(tables)
    at = found["epoch"].isna() if epoch is None else found["epoch"] == epoch
    return found[at].set_index("metric")["auc"]
