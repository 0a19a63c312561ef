"""How well metrics tell where hotter is better, on tables made so that the answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest

from threeregime.analysis.separation import hotter_is_better, separation_table
from threeregime.results import Results

EPOCHS, DENSITIES = (10, 20, 30), (0.05, 0.2)
# Of low density hotter is better, of the other colder; by (epochs, density).
ERROR = {10: (0.1, 0.3), 20: (0.2, 0.2), 30: (0.3, 0.1)}


def make(
    temperature: str = "epochs", errors: Any = ERROR, early: bool = False, **columns: Any
) -> Results:
    cells = [
        {temperature: t, "density": x, "dense_seed": seed, "error": errors[t][DENSITIES.index(x)]}
        for t, x, seed in itertools.product(EPOCHS, DENSITIES, (0, 1))
    ]
    table = pd.DataFrame(cells)
    noise = np.where(table["dense_seed"] == 0, 0.001, -0.001)
    nets = table.assign(test_error=table.pop("error") + noise, **columns)
    # poor at low density, which is what is to be told; CKA tells nothing, an early LMC the opposite
    poor = (table["density"] == 0.05).astype(float)
    pairs = table.assign(lmc=-poor / 10, cka_softmax=0.9, cka_logits=np.nan)
    rows = [pairs.assign(epoch=e, lmc=s * poor, test_error=0.2) for e, s in ((1, 1), (2, -1))]
    return Results(
        "made",
        "smoke",
        temperature,
        "density",
        dense=pd.DataFrame(),
        nets=nets,
        pairs=pairs,
        provenance=pd.DataFrame(),
        early=pd.concat(rows) if early else pd.DataFrame(),
    )


def auc(table: pd.DataFrame, metric: str, epoch: float = np.nan) -> float:
    at = table["epoch"].isna() if np.isnan(epoch) else table["epoch"] == epoch
    (value,) = table.loc[(table["metric"] == metric) & at, "auc"]
    return float(value)


def test_hotter_is_better_where_half_the_grid_hotter_errs_less() -> None:
    expected = {(20, 0.05): True, (30, 0.05): True, (20, 0.2): False, (30, 0.2): False}
    assert hotter_is_better(make()).to_dict() == expected
    # a larger rho is hotter
    turned = {(10, 0.05): False, (20, 0.05): False, (10, 0.2): True, (20, 0.2): True}
    assert hotter_is_better(make("rho")).to_dict() == turned


def test_cells_without_an_error_are_not_judged() -> None:
    errors = {**ERROR, 20: (np.nan, 0.2)}
    assert list(hotter_is_better(make(errors=errors)).index) == [(20, 0.2), (30, 0.2)]


def test_the_area_is_one_for_a_metric_that_tells_and_a_half_for_one_that_does_not() -> None:
    sharp = [1.0 if x == 0.05 else 0.0 for _, x, _ in itertools.product(EPOCHS, DENSITIES, "ab")]
    table = separation_table(make(hessian_trace=sharp, hessian_top=np.nan, early=True))
    assert auc(table, "lmc") == auc(table, "hessian_trace") == 1
    assert auc(table, "cka_softmax") == 0.5
    assert (auc(table, "lmc", 1), auc(table, "lmc", 2)) == (0, 1)
    assert auc(table, "test_error", 1) == 0.5
    assert set(table["cells"]) == {4}
    assert set(table["hotter_better"]) == {2}
    # what was not measured has no row
    assert not {"hessian_top", "cka_logits", "train_error"} & set(table["metric"])
    assert separation_table(make())["epoch"].isna().all()


@pytest.mark.parametrize("hotter", [True, False])
def test_cells_all_of_one_kind_have_no_area(hotter: bool) -> None:
    slope = 1 if hotter else -1
    table = separation_table(make(errors={t: (slope * t / 100 + 1,) * 2 for t in EPOCHS}))
    assert table["auc"].isna().all()
    assert set(table["hotter_better"]) == {4 * hotter}
