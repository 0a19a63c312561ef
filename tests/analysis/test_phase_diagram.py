"""The phase diagram on the paper's own values and on tables with a known answer."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.synthetic import make_diagram, make_tables, paper_diagram, row
from threeregime.analysis.cells import METRICS
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import classify, otsu
from threeregime.errors import ThreeRegimeError
from threeregime.results import tables as results


@pytest.mark.parametrize(
    ("epochs", "density", "regime"),
    [
        *((t, x, "I") for t in (120, 140, 160) for x in (0.05, 0.06, 0.07, 0.08, 0.10)),
        *((t, x, "II-A") for t in (10, 20) for x in (0.07, 0.08, 0.10, 0.14)),
        *((t, x, "II-A") for t in (40, 60) for x in (0.07, 0.08, 0.10)),
        (10, 0.20, "II-A"),
        *((t, x, "II-B") for t in (80, 120, 160) for x in (0.20, 0.40, 0.80)),
        (60, 0.14, "II-B"),
    ],
)
def test_the_papers_regimes_are_where_the_paper_draws_them(
    epochs: int, density: float, regime: str
) -> None:
    assert row(paper_diagram().cells, epochs=epochs, density=density)["regime"] == regime


def test_reference_has_means_and_thresholds_but_no_intervals() -> None:
    paper = paper_diagram()
    assert (len(paper.cells), paper.lmc_threshold, paper.cka_rule) == (144, -0.05, "Otsu")
    assert paper.cka_threshold == pytest.approx(0.968, abs=0.001)
    spread = [str(c) for c in paper.cells]
    spread = [c for c in spread if c.endswith(("_low", "_high")) or c.startswith("p_")]
    assert len(spread) == 2 * len(METRICS) + 3
    assert paper.cells[spread].isna().all(axis=None)
    published = results.reference().sort_values(["epochs", "density"])["normalized_test_error"]
    ours = paper.cells["normalized_test_error"].to_numpy()
    assert np.abs(ours - published.to_numpy()).max() < 0.0009  # the reading error


def test_rule_for_the_cka_threshold_is_steady_when_the_grid_changes() -> None:
    whole = results.reference()
    for column, values in (("density", (0.05, 0.08, 0.2, 0.8)), ("epochs", (10, 80, 160))):
        for value in values:
            part = PhaseDiagram.from_reference(whole[whole[column] != value])
            assert part.cka_threshold == pytest.approx(0.968, abs=0.005)


def test_means_counts_and_normalised_error() -> None:
    tables = make_tables()
    tables.nets.loc[0, ["test_error", "diverged"]] = [np.nan, True]
    tables.nets.loc[1, "test_error"] = 0.5
    cells = make_diagram(tables).cells
    first = row(cells, epochs=10, density=0.05)
    expected = 0.3 - 0.05 / 2 - 0.01
    assert first["test_error"] == pytest.approx((0.5 + 7 * expected) / 8)
    assert (first["n_nets"], first["n_pairs"], first["n_diverged"]) == (8, 9, 1)
    assert first["cka_logits"] == pytest.approx((0.8 + 0.05 / 2) / 2)
    assert row(cells, epochs=30, density=0.05)["normalized_test_error"] == 0
    assert row(cells, epochs=20, density=0.2)["normalized_test_error"] == pytest.approx(0.01)


def test_a_cell_of_diverged_nets_has_no_regime_and_harms_no_other() -> None:
    tables = make_tables()
    here = (tables.nets["epochs"] == 20) & (tables.nets["density"] == 0.05)
    tables.nets.loc[here, "diverged"] = True
    lost = (tables.pairs["epochs"] == 20) & (tables.pairs["density"] == 0.05)
    tables.pairs.loc[lost, ["lmc", "cka_softmax", "cka_logits"]] = np.nan
    d = make_diagram(tables)
    cell = row(d.cells, epochs=20, density=0.05)
    assert cell["regime"] is None
    assert (cell["n_diverged"], cell["n_nets"], cell["n_pairs"]) == (9, 0, 0)
    assert cell[["test_error", "lmc", "lmc_low", "p_I", "p_IIB"]].isna().all()
    others = d.cells[d.cells["regime"].notna()]
    assert len(others) == 5
    assert np.isfinite(others[["test_error", "lmc", "cka_softmax"]]).all(axis=None)
    assert d.grid("regime")[1, 0] is None
    assert "-" in d.table()


def test_without_noise_intervals_close_and_probabilities_are_certain() -> None:
    cells = make_diagram(make_tables(noise=0.0)).cells
    for name in METRICS:
        assert np.allclose(cells[f"{name}_low"], cells[name])
        assert np.allclose(cells[f"{name}_high"], cells[name])
    assert cells["p_I"].isin([0.0, 1.0]).all()
    assert np.allclose(cells[["p_I", "p_IIA", "p_IIB"]].sum(axis=1), 1)


@settings(deadline=None, max_examples=15)
@given(order=st.randoms(use_true_random=False))
def test_results_do_not_depend_on_the_order_of_rows_or_of_a_pair(order: Any) -> None:
    tables = make_tables(noise=0.05)
    expected = make_diagram(tables, bootstrap=50).cells
    for name in ("nets", "pairs"):
        rows = getattr(tables, name)
        index = list(range(len(rows)))
        order.shuffle(index)
        tables = replace(tables, **{name: rows.iloc[index].reset_index(drop=True)})
    flip = np.array([order.random() < 0.5 for _ in range(len(tables.pairs))])
    a, b = tables.pairs["seed_a"].copy(), tables.pairs["seed_b"].copy()
    tables.pairs["seed_a"], tables.pairs["seed_b"] = a.where(~flip, b), b.where(~flip, a)
    pd.testing.assert_frame_equal(make_diagram(tables, bootstrap=50).cells, expected)


def test_the_bootstrap_is_seeded() -> None:
    tables = make_tables(noise=0.05)
    once, twice, other = (make_diagram(tables, seed=s).cells["lmc_low"] for s in (1, 1, 2))
    assert once.equals(twice)
    assert not once.equals(other)


def test_intervals_follow_the_design_not_the_number_of_nets() -> None:
    """Noise between dense runs does not average out over the nets retrained from each."""
    tables = make_tables(epochs=(10,), densities=(0.1,), dense_seeds=8)
    rng = np.random.default_rng(0)
    shift = rng.normal(0, 0.05, 8)
    between, within = tables.nets.copy(), tables.nets.copy()
    between["test_error"] += shift[between["dense_seed"]]
    within["test_error"] += rng.permutation(np.repeat(shift, 3))
    widths = []
    for nets in (between, within):
        cells = make_diagram(replace(tables, nets=nets), bootstrap=1000).cells
        widths.append(float((cells["test_error_high"] - cells["test_error_low"]).iloc[0]))
    expected = 2 * 1.96 * shift.std() / np.sqrt(8)
    assert widths[0] == pytest.approx(expected, rel=0.15)
    assert widths[1] < 0.85 * widths[0]


def test_dense_seeds_are_drawn_together_for_all_cells() -> None:
    """A dense run that is bad everywhere cancels in differences between temperatures."""
    tables = make_tables()
    tables.nets["test_error"] += 0.05 * tables.nets["dense_seed"]
    cells = make_diagram(tables).cells
    assert (cells["test_error_high"] - cells["test_error_low"]).min() > 0.05
    gap = cells["normalized_test_error_high"] - cells["normalized_test_error_low"]
    assert gap.max() < 1e-12


def test_probability_of_a_regime_lies_between_when_the_seeds_disagree() -> None:
    tables = make_tables(epochs=(10,), densities=(0.1,))
    tables.pairs["lmc"] = np.where(tables.pairs["dense_seed"] == 0, -0.2, -0.01)
    cell = make_diagram(tables, cka_threshold=0.5, bootstrap=2000).cells.iloc[0]
    assert cell["regime"] == "I"
    # The mean crosses -0.05 as soon as dense seed 0 is drawn at all: 1 - (2/3)^3.
    assert cell["p_I"] == pytest.approx(1 - 8 / 27, abs=0.04)
    assert cell["p_IIB"] == pytest.approx(8 / 27, abs=0.04)


def test_missing_cells_and_a_missing_dense_seed_are_no_obstacle() -> None:
    tables = make_tables(noise=0.01)
    for name in ("nets", "pairs"):
        rows = getattr(tables, name)
        gone = (rows["epochs"] == 20) & (rows["density"] == 0.2)
        gone |= (rows["epochs"] == 30) & (rows["dense_seed"] == 2)
        tables = replace(tables, **{name: rows[~gone]})
    d = make_diagram(tables)
    assert len(d.cells) == 5
    assert np.isnan(d.grid("test_error")[1, 1])
    assert np.isfinite(d.cells[["test_error_low", "lmc_high"]]).all(axis=None)


def test_cells_whose_nets_learned_nothing_have_no_regime() -> None:
    tables = make_tables()
    lost = (tables.nets["epochs"] == 30) & (tables.nets["density"] == 0.05)
    tables = replace(tables, nets=tables.nets.assign(train_error=lost * 0.6))
    d = make_diagram(tables, max_train_error=0.45)
    assert d.grid("no_nets").astype(bool).sum() == 1
    assert d.grid("regime")[-1, 0] is None
    assert np.isnan(d.grid("p_I")[-1, 0])
    assert np.isfinite(d.grid("test_error")[-1, 0])
    assert make_diagram(tables).grid("regime")[-1, 0] == "I"


def test_thousand_replicates_of_432_cells_take_seconds_at_most() -> None:
    tables = make_tables(range(10, 490, 10), np.linspace(0.05, 0.8, 9).round(3).tolist(), noise=0.1)
    start = time.perf_counter()
    assert len(make_diagram(tables, bootstrap=1000).cells) == 432
    assert time.perf_counter() - start < 6  # about 1 on an idle core


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lmc_threshold": 0.1}, "lmc_threshold = 0.1 is not allowed"),
        ({"cka_threshold": 1.5}, "cka_threshold = 1.5 is not allowed"),
    ],
)
def test_thresholds_out_of_range_are_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(ThreeRegimeError, match=said):
        make_diagram(make_tables(), **options)


def test_empty_doubled_and_unknown_tables_are_refused() -> None:
    tables = make_tables()
    with pytest.raises(ThreeRegimeError, match="two rows have the same epochs"):
        make_diagram(replace(tables, nets=pd.concat([tables.nets, tables.nets.iloc[:1]])))
    with pytest.raises(ThreeRegimeError, match="run its sweep first"):
        make_diagram(replace(tables, pairs=pd.DataFrame()))
    nets, pairs = (x.rename(columns={"epochs": "heat"}) for x in (tables.nets, tables.pairs))
    with pytest.raises(ThreeRegimeError, match="'heat' is not an axis"):
        make_diagram(replace(tables, nets=nets, pairs=pairs, temperature="heat"))


def test_thresholds_decide_and_are_kept() -> None:
    d = make_diagram(make_tables(), lmc_threshold=-0.5, cka_threshold=0.85)
    assert (d.lmc_threshold, d.cka_threshold, d.cka_rule) == (-0.5, 0.85, "given")
    assert set(d.grid("regime")[:, 0]) == {"II-A"}
    assert set(d.grid("regime")[:, 1]) == {"II-B"}


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_otsu_leaves_the_least_variance_inside_two_groups(numbers: list[float]) -> None:
    x = np.array(numbers)
    cut = otsu(x)
    distinct = np.unique(x)
    if len(distinct) == 1:
        assert cut == distinct[0]
        return

    def inside(at: float) -> float:
        return sum(float(((g - g.mean()) ** 2).sum()) for g in (x[x < at], x[x >= at]) if g.size)

    assert distinct[0] <= cut <= distinct[-1]
    best = min(inside(at) for at in distinct[1:])
    upper = distinct[distinct >= cut][0]
    assert inside(upper) <= best + 1e-9


def test_otsu_of_two_clumps_and_of_nothing() -> None:
    assert otsu(np.array([0.1, 0.12, np.nan, 0.9, 0.92])) == pytest.approx(0.51)
    assert np.isnan(otsu(np.array([np.nan])))


def test_classify_at_the_thresholds_and_without_numbers() -> None:
    lmc = np.array([-0.06, -0.05, 0.0, 0.0, np.nan, -0.5])
    cka = np.array([0.99, 0.9, 0.95, np.nan, 0.9, np.nan])
    assert classify(lmc, cka, -0.05, 0.95).tolist() == ["I", "II-A", "II-B", None, None, "I"]


def test_the_table_prints_what_the_figure_shows() -> None:
    paper = paper_diagram()
    text = paper.table(["test_error", "regime"])
    assert "Test error (%)" in text
    assert "17.4" in text
    assert "II-B" in text
    assert "40 %" in text
