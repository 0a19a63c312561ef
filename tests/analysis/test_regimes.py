"""The phase diagram on the paper's own values and on tables made so that the answer is known."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.made import diagram, tables
from threeregime.analysis.cells import METRICS
from threeregime.analysis.intervals import held_out_gain
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import classify, otsu
from threeregime.analysis.transitions import (
    best_temperatures,
    compare_cells,
    favourable_transitions,
    regime_boundaries,
    regime_label_positions,
)
from threeregime.claims.diagram_statements import figure_2
from threeregime.errors import ThreeRegimeError
from threeregime.results import tables as results


@functools.cache
def the_paper() -> PhaseDiagram:
    return PhaseDiagram.from_reference()


def row(table: pd.DataFrame, **key: float) -> pd.Series[Any]:
    """The one row whose columns have these values."""
    chosen = table[np.logical_and.reduce([table[name] == x for name, x in key.items()])]
    assert len(chosen) == 1
    return chosen.iloc[0]


def like_the_paper(noise: float = 0.004, dense_seeds: int = 3, seed: int = 0) -> PhaseDiagram:
    reference = results.reference().set_index(["epochs", "density"])
    made = tables(
        sorted(reference.index.unique(0)),
        sorted(reference.index.unique(1)),
        noise=noise,
        dense_seeds=dense_seeds,
        seed=seed,
        values=lambda t, x: tuple(reference.loc[(t, x), ["test_error", "lmc", "cka"]]),
    )
    return diagram(made)


# The reference: where the paper draws the regimes


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
    assert row(the_paper().cells, epochs=epochs, density=density)["regime"] == regime


def test_reference_has_means_and_thresholds_but_no_intervals() -> None:
    paper = the_paper()
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


def test_all_statements_hold_on_the_papers_own_values() -> None:
    judged = figure_2(the_paper())
    assert [s.holds for s in judged] == [True] * 7
    assert all(np.isnan([s.low, s.high]).all() for s in judged)


# Means, intervals, probabilities


def test_means_counts_and_normalised_error() -> None:
    made = tables()
    made.nets.loc[0, ["test_error", "diverged"]] = [np.nan, True]
    made.nets.loc[1, "test_error"] = 0.5
    cells = diagram(made).cells
    first = row(cells, epochs=10, density=0.05)
    expected = 0.3 - 0.05 / 2 - 0.01
    assert first["test_error"] == pytest.approx((0.5 + 7 * expected) / 8)
    assert (first["n_nets"], first["n_pairs"], first["n_diverged"]) == (8, 9, 1)
    assert first["cka_logits"] == pytest.approx((0.8 + 0.05 / 2) / 2)
    assert row(cells, epochs=30, density=0.05)["normalized_test_error"] == 0
    assert row(cells, epochs=20, density=0.2)["normalized_test_error"] == pytest.approx(0.01)


def test_a_cell_of_diverged_nets_has_no_regime_and_harms_no_other() -> None:
    made = tables()
    here = (made.nets["epochs"] == 20) & (made.nets["density"] == 0.05)
    made.nets.loc[here, "diverged"] = True
    lost = (made.pairs["epochs"] == 20) & (made.pairs["density"] == 0.05)
    made.pairs.loc[lost, ["lmc", "cka_softmax", "cka_logits"]] = np.nan
    d = diagram(made)
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
    cells = diagram(tables(noise=0.0)).cells
    for name in METRICS:
        assert np.allclose(cells[f"{name}_low"], cells[name])
        assert np.allclose(cells[f"{name}_high"], cells[name])
    assert cells["p_I"].isin([0.0, 1.0]).all()
    assert np.allclose(cells[["p_I", "p_IIA", "p_IIB"]].sum(axis=1), 1)


@settings(deadline=None, max_examples=15)
@given(order=st.randoms(use_true_random=False))
def test_results_do_not_depend_on_the_order_of_rows_or_of_a_pair(order: Any) -> None:
    made = tables(noise=0.05)
    expected = diagram(made, bootstrap=50).cells
    for name in ("nets", "pairs"):
        rows = getattr(made, name)
        index = list(range(len(rows)))
        order.shuffle(index)
        made = replace(made, **{name: rows.iloc[index].reset_index(drop=True)})
    flip = np.array([order.random() < 0.5 for _ in range(len(made.pairs))])
    a, b = made.pairs["seed_a"].copy(), made.pairs["seed_b"].copy()
    made.pairs["seed_a"], made.pairs["seed_b"] = a.where(~flip, b), b.where(~flip, a)
    pd.testing.assert_frame_equal(diagram(made, bootstrap=50).cells, expected)


def test_the_bootstrap_is_seeded() -> None:
    made = tables(noise=0.05)
    once, twice, other = (diagram(made, seed=s).cells["lmc_low"] for s in (1, 1, 2))
    assert once.equals(twice)
    assert not once.equals(other)


def test_intervals_follow_the_design_not_the_number_of_nets() -> None:
    """Noise between dense runs does not average out over the nets retrained from each."""
    made = tables(epochs=(10,), densities=(0.1,), dense_seeds=8)
    rng = np.random.default_rng(0)
    shift = rng.normal(0, 0.05, 8)
    between, within = made.nets.copy(), made.nets.copy()
    between["test_error"] += shift[between["dense_seed"]]
    within["test_error"] += rng.permutation(np.repeat(shift, 3))
    widths = []
    for nets in (between, within):
        cells = diagram(replace(made, nets=nets), bootstrap=1000).cells
        widths.append(float((cells["test_error_high"] - cells["test_error_low"]).iloc[0]))
    expected = 2 * 1.96 * shift.std() / np.sqrt(8)
    assert widths[0] == pytest.approx(expected, rel=0.15)
    assert widths[1] < 0.85 * widths[0]


def test_dense_seeds_are_drawn_together_for_all_cells() -> None:
    """A dense run that is bad everywhere cancels in differences between temperatures."""
    made = tables()
    made.nets["test_error"] += 0.05 * made.nets["dense_seed"]
    cells = diagram(made).cells
    assert (cells["test_error_high"] - cells["test_error_low"]).min() > 0.05
    gap = cells["normalized_test_error_high"] - cells["normalized_test_error_low"]
    assert gap.max() < 1e-12


def test_probability_of_a_regime_lies_between_when_the_seeds_disagree() -> None:
    made = tables(epochs=(10,), densities=(0.1,))
    made.pairs["lmc"] = np.where(made.pairs["dense_seed"] == 0, -0.2, -0.01)
    cell = diagram(made, cka_threshold=0.5, bootstrap=2000).cells.iloc[0]
    assert cell["regime"] == "I"
    # The mean crosses -0.05 as soon as dense seed 0 is drawn at all: 1 - (2/3)^3.
    assert cell["p_I"] == pytest.approx(1 - 8 / 27, abs=0.04)
    assert cell["p_IIB"] == pytest.approx(8 / 27, abs=0.04)


def test_missing_cells_and_a_missing_dense_seed_are_no_obstacle() -> None:
    made = tables(noise=0.01)
    for name in ("nets", "pairs"):
        rows = getattr(made, name)
        gone = (rows["epochs"] == 20) & (rows["density"] == 0.2)
        gone |= (rows["epochs"] == 30) & (rows["dense_seed"] == 2)
        made = replace(made, **{name: rows[~gone]})
    d = diagram(made)
    assert len(d.cells) == 5
    assert np.isnan(d.grid("test_error")[1, 1])
    assert np.isfinite(d.cells[["test_error_low", "lmc_high"]]).all(axis=None)
    assert len(figure_2(d)) == 7


def test_thousand_replicates_of_432_cells_take_seconds_at_most() -> None:
    made = tables(range(10, 490, 10), np.linspace(0.05, 0.8, 9).round(3).tolist(), noise=0.1)
    start = time.perf_counter()
    assert len(diagram(made, bootstrap=1000).cells) == 432
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
        diagram(tables(), **options)


def test_empty_doubled_and_unknown_tables_are_refused() -> None:
    made = tables()
    with pytest.raises(ThreeRegimeError, match="two rows have the same epochs"):
        diagram(replace(made, nets=pd.concat([made.nets, made.nets.iloc[:1]])))
    with pytest.raises(ThreeRegimeError, match="run its sweep first"):
        diagram(replace(made, pairs=pd.DataFrame()))
    nets, pairs = (x.rename(columns={"epochs": "heat"}) for x in (made.nets, made.pairs))
    with pytest.raises(ThreeRegimeError, match="'heat' is not an axis"):
        diagram(replace(made, nets=nets, pairs=pairs, temperature="heat"))


# Thresholds


def test_thresholds_decide_and_are_kept() -> None:
    d = diagram(tables(), lmc_threshold=-0.5, cka_threshold=0.85)
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


# Transitions


def test_favourable_transitions_on_the_reference() -> None:
    heating, cooling = favourable_transitions(the_paper())
    assert heating is not None
    assert cooling is not None
    assert (heating.before, heating.after, heating.start) == ("I", "II-A", 160)
    assert heating.end < heating.start
    assert heating.load <= 0.1
    assert (cooling.before, cooling.after, cooling.start) == ("II-A", "II-B", 10)
    assert cooling.end > cooling.start
    assert cooling.load >= 0.14
    assert min(heating.gain, cooling.gain) > 0.02


def test_best_temperature_is_hotter_at_low_density() -> None:
    best = best_temperatures(the_paper())
    low = row(best, density=0.05)
    assert (low["best"], low["error_coldest"], low["regime_coldest"]) == (60, 0.1742, "I")
    assert row(best, density=0.8)["best"] > 100


def test_no_transition_where_there_is_no_gain() -> None:
    assert favourable_transitions(diagram(tables(epochs=(10,)))) == (None, None)


def test_boundaries_run_between_cells_of_different_regimes() -> None:
    made = tables((10, 20), (0.05, 0.1), values=lambda t, x: (0.1, -0.1 if t + x > 20 else 0, 0.9))
    lines = regime_boundaries(diagram(made))
    assert lines["II-A|II-B"].shape == (0, 2, 2)
    # Both cold cells are in Regime I: a line across, between the rows.
    assert sorted(lines["I|II"].tolist()) == [[[0, 1], [1, 1]], [[1, 1], [2, 1]]]


def test_names_are_written_inside_their_regimes() -> None:
    paper = the_paper()
    for name, (x, y) in regime_label_positions(paper).items():
        assert paper.grid("regime")[int(y), int(x)] == name


def test_compare_matches_epochs_by_their_fraction_of_the_run() -> None:
    made = tables((8, 64, 128), (0.04, 0.05, 0.2))
    both = compare_cells(diagram(made), the_paper())
    assert sorted(both["temperature"].unique()) == [0.0625, 0.5, 1.0]
    assert sorted(both["density"].unique()) == [0.05, 0.2]
    coldest = row(both, temperature=1.0, density=0.05)
    assert coldest["test_error_reference"] == 0.1742
    assert coldest["test_error_difference"] == pytest.approx(coldest["test_error"] - 0.1742)
    with pytest.raises(ThreeRegimeError, match="share no cell"):
        compare_cells(diagram(tables(densities=(0.03,))), the_paper())


# Statements


def test_statements_hold_on_a_clear_diagram_with_seeds() -> None:
    judged = {s.name: s for s in figure_2(like_the_paper(noise=0.002))}
    assert {name for name, s in judged.items() if s.holds} == {
        "two_a_beats_one",
        "two_b_beats_two_a",
        "lmc_boundary",
        "similarity_lower_in_one",
        "lmc_sharper",
        "heating_helps",
        "cooling_helps",
    }
    assert all(s.low <= s.effect <= s.high for s in judged.values())
    assert judged["heating_helps"].effect == pytest.approx(0.0257, abs=0.003)


def test_noise_alone_is_not_taken_for_a_gain() -> None:
    """Where nothing depends on anything, the best of 15 temperatures must not pass for a gain."""
    gains, naive, holds = [], [], 0
    for seed in range(8):
        made = tables(
            range(10, 170, 10), (0.05, 0.1, 0.2), noise=0.02, seed=seed,
            values=lambda t, x: (0.1, -0.2 if x < 0.08 else 0.0, 0.9 + x / 4),
        )  # fmt: skip
        d = diagram(made)
        judged = {s.name: s for s in figure_2(d)}
        gains.append(judged["heating_helps"].effect)
        error = d.grid("test_error")[:, 0]
        naive.append(error[-1] - error[:-1].min())
        holds += judged["heating_helps"].holds is True
    assert np.mean(naive) > 0.008
    assert abs(np.mean(gains)) < 0.5 * np.mean(naive)
    assert holds <= 1


def test_held_out_chooses_on_other_units_than_it_measures() -> None:
    # Each unit is lucky at another temperature; on the others that luck is not there.
    lucky = np.array([[0.0, 0.5, 0.5, 0.4], [0.5, 0.0, 0.5, 0.4], [0.5, 0.5, 0.0, 0.4]])
    gains = held_out_gain(lucky[..., None])[:, 0]
    assert gains.tolist() == pytest.approx([-0.1, -0.1, -0.1])
    assert np.isnan(held_out_gain(lucky[:1, :, None])).all()


def test_a_statement_is_refuted_where_the_opposite_is_so() -> None:
    made = tables(
        (10, 20, 30), (0.05, 0.1, 0.4), noise=1e-4,
        values=lambda t, x: (0.1 + t / 1000, -0.3 if x > 0.2 else 0.0, 0.8 if x < 0.2 else 0.95),
    )  # fmt: skip
    judged = {s.name: s for s in figure_2(diagram(made))}
    for name in ("lmc_boundary", "similarity_lower_in_one", "cooling_helps"):
        assert judged[name].holds is False, judged[name]
    assert judged["lmc_boundary"].effect == -1


def test_what_a_diagram_cannot_say_is_left_open() -> None:
    for made in (tables((10,), (0.05,)), tables((10,), (0.05, 0.2)), tables((10, 20), (0.05,))):
        for s in figure_2(diagram(made, cka_threshold=0.9)):
            assert s.holds is None or np.isfinite(s.effect)
            assert s.detail
    one_seed = figure_2(diagram(tables(dense_seeds=1, noise=0.01)))
    assert all(s.holds in (None, False) and np.isnan(s.low) for s in one_seed)


# Printing


def test_the_table_prints_what_the_figure_shows() -> None:
    paper = the_paper()
    text = paper.table(["test_error", "regime"])
    assert "Test error (%)" in text
    assert "17.4" in text
    assert "II-B" in text
    assert "40 %" in text
