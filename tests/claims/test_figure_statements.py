"""The paper's statements on its figures, on tables where the right verdict is known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.helpers.synthetic import (
    RETRAINING_EPOCHS,
    make_diagram,
    make_rho_tables,
    make_tables,
    mirror,
    regimes,
)
from threeregime.claims import figure_statements
from threeregime.claims import tables as verdict_tables
from threeregime.results.tables import Results


def test_statements_on_selection_follow_the_table() -> None:
    tables = make_tables(values=regimes, noise=1e-3)
    choices = figure_statements.selections(tables, RETRAINING_EPOCHS, 2, -0.05)
    better, close, cheaper = figure_statements.figure_4(
        choices, "Algorithm 2", make_diagram(tables)
    )
    assert better.holds is True
    assert better.effect == pytest.approx(20 / 300, abs=0.005)
    assert close.holds is True
    assert cheaper.holds is True
    usual = choices.assign(test_error=-choices["test_error"])
    assert figure_statements.figure_4(usual, "Algorithm 2", make_diagram(tables))[0].holds is False


def test_figures_3_and_15_hold_on_known_tables_and_fail_on_their_mirror() -> None:
    epochs = (10, 20, 30, 40)
    diagram = make_diagram(make_tables(epochs, values=regimes, noise=1e-3))
    assert [s.holds for s in figure_statements.figure_3(diagram)] == [True, True]
    opposite = make_diagram(make_tables(epochs, values=mirror, noise=1e-3))
    assert [s.holds for s in figure_statements.figure_3(opposite)] == [False, False]
    poor = make_diagram(make_tables(values=lambda t, x: (t / 100, -0.2 - x, 0.8), noise=1e-3))
    assert [s.holds for s in figure_statements.figure_15(poor)] == [True, True]
    # The density of 0.2 is in Regime II.
    assert figure_statements.figure_15(diagram)[0].holds is False


def test_algorithm_1_beats_constant_rules_only_where_lmc_predicts_the_gain() -> None:
    epochs = (10, 20, 30, 40)
    diagram = make_diagram(make_tables(epochs, values=regimes, noise=1e-4))
    better, robust = figure_statements.algorithm_1_accuracy(diagram)
    assert (better.effect, robust.effect) == pytest.approx((0.5, 0.1))
    opposite = make_diagram(make_tables(epochs, values=mirror, noise=1e-4))
    assert figure_statements.algorithm_1_accuracy(opposite)[0].effect == pytest.approx(-0.5)
    # All LMC are between the two thresholds, so that the accuracy changes there.
    near = make_tables(epochs, values=lambda t, x: (0.3 - t / 300, -0.07, 0.9), noise=1e-4)
    assert figure_statements.algorithm_1_accuracy(make_diagram(near))[1].holds is False


def test_figure_5_takes_differences_seed_by_seed() -> None:
    sgd = make_tables(values=regimes, noise=1e-3)

    def sam(gain_in_one: float) -> Results:
        def values(t: float, x: float) -> tuple[float, float, float]:
            error, lmc, cka = regimes(t, x)
            return (error - gain_in_one, lmc / 2, cka + 0.05) if lmc < 0 else (error, lmc, cka)

        return make_tables(values=values, noise=1e-3, seed=1)

    helped = figure_statements.figure_5(make_diagram(sgd), make_diagram(sam(0.05)))
    assert [s.holds for s in helped] == [True] * 4
    assert helped[0].effect == pytest.approx(0.05, abs=0.002)
    harmed = figure_statements.figure_5(make_diagram(sgd), make_diagram(sam(-0.05)))
    assert [s.holds for s in harmed] == [False, True, True, False]
    # No cell in Regime I: the statement is open.
    well = make_tables(values=lambda t, x: (0.1, 0.0, 0.9), noise=1e-3)
    assert figure_statements.figure_5(make_diagram(well), make_diagram(well))[0].holds is None


def test_figure_6_on_a_table_where_the_radius_matters() -> None:
    def values(rho: float, x: float) -> tuple[float, float, float]:
        error = 0.3 - rho / 20 if x == 0.05 else 0.1 + rho / 50
        return error, 0.0, 1 - error

    tables = make_rho_tables(values)
    statements = {
        s.name: s.holds
        for s in figure_statements.figure_6(make_diagram(tables), tables, RETRAINING_EPOCHS)
    }
    assert statements["rho_helps_low"] is True
    assert statements["rho_hurts_high"] is True
    assert statements["cka_beats_fixed"] is True
    flipped = make_rho_tables(lambda rho, x: (values(rho, x)[0], 0.0, values(rho, x)[0]))
    statements = {
        s.name: s.holds
        for s in figure_statements.figure_6(make_diagram(flipped), flipped, RETRAINING_EPOCHS)
    }
    assert statements["cka_beats_fixed"] is False
    assert statements["cka_matches_grid"] is False


def test_figure_13_compares_the_four_settings() -> None:
    level = {"SGD, SGD": 0.2, "SGD, Adam": 0.1, "Adam, SGD": 0.3, "Adam, Adam": 0.2}
    diagrams = {
        name: make_diagram(
            make_tables(values=lambda t, x, e=e: (e + t / 1000, -0.2, 0.9), noise=1e-3)
        )
        for name, e in level.items()
    }
    statements = figure_statements.figure_13(diagrams)
    assert [s.holds for s in statements] == [True] * 6
    assert statements[-1].effect == pytest.approx(0.1, abs=0.002)


def test_figure_14_on_low_and_on_high_densities() -> None:
    tables = make_tables(values=regimes, noise=1e-3)
    assert [s.holds for s in figure_statements.figure_14(make_diagram(tables))] == [True, True]


def test_the_hessian_is_statements_against_lmc_and_cka() -> None:
    tables = make_tables(
        (10, 20, 30, 40), (0.05, 0.1, 0.2, 0.4), values=lambda t, x: regimes(t, min(x, 0.2))
    )
    rng = np.random.default_rng(0)
    nets = tables.nets.assign(hessian_trace=rng.random(len(tables.nets)))
    statements = figure_statements.local_metrics(dataclasses.replace(tables, nets=nets))
    assert [s.name for s in statements] == [
        "lmc_beats_hessian_trace",
        "cka_softmax_beats_hessian_trace",
    ]
    assert figure_statements.local_metrics(tables) == ()
    early = figure_statements.early_metrics(tables)
    # What is measured after 2 epochs is what is measured at the end.
    assert [s.effect for s in early[1::2]] == [0.0, 0.0]


def test_verdicts_print_effect_and_interval() -> None:
    statements = figure_statements.figure_3(
        make_diagram(make_tables((10, 20, 30, 40), values=regimes, noise=1e-3))
    )
    text = verdict_tables.statement_table(statements, statements, heads=("one", "two")).data
    assert text.count("**holds**") == 4
    assert (
        f"{statements[0].effect:+.3f} ({statements[0].low:+.3f} to {statements[0].high:+.3f})"
        in text
    )
    nothing = dataclasses.replace(statements[0], holds=None, effect=np.nan)
    assert "**open** | no such cells" in verdict_tables.statement_table([nothing]).data
