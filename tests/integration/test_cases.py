"""The case studies: the paper's rules, live and replayed, and what is said of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.helpers.made import diagram, tables
from threeregime.algorithms import accuracy, selection
from threeregime.algorithms.replay import Replay, replay_rules, replays, summarize_rules
from threeregime.algorithms.selection import Measurement
from threeregime.analysis.study import Study, best_temperature_table
from threeregime.claims import figure_statements
from threeregime.claims import tables as verdict_tables
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.figures import case_studies, metrics
from threeregime.results import Results
from threeregime.results import tables as results

WHOLE = 64  # epochs of retraining in the made tables


@dataclass
class Made:
    """Trials whose outcomes are given, and which count what was retrained."""

    dense: dict[float, float]
    outcomes: dict[float, Measurement]
    candidates: list[float] = field(default_factory=list)
    retraining_epochs: int = 160
    copies: int = 2
    spent: int = 0

    def __post_init__(self) -> None:
        self.candidates = list(self.dense)

    def dense_error(self, candidate: float) -> float:
        return self.dense[candidate]

    def retrain(self, candidate: float, epochs: int) -> Measurement:
        self.spent += self.copies * epochs
        return self.outcomes[candidate]


def trials(lmc_of_best: float) -> Made:
    """The longest trained is the best dense net; 20 has the lowest error, 40 the highest CKA."""
    return Made(
        {20: 0.3, 40: 0.2, 160: 0.1},
        {20: Measurement(0.11, -0.01, 0.90), 40: Measurement(0.12, 0.0, 0.95),
         160: Measurement(0.2, lmc_of_best, 0.8)},
    )  # fmt: skip


def test_algorithm_1_raises_the_temperature_in_regime_i_alone() -> None:
    for lmc, hotter in ((-0.2, True), (-0.051, True), (-0.05, False), (0.0, False)):
        made = trials(lmc)
        found = selection.tune(made, 160)
        assert (found.hotter, found.chosen, found.epochs) == (hotter, 160, made.spent)
        assert found.evidence[160].lmc == lmc
    assert selection.tune(trials(-0.1), 160, threshold=-0.15, epochs=2).hotter is False


@pytest.mark.parametrize(
    ("rule", "chosen"), [(selection.select_by_error, 20), (selection.select_by_similarity, 40)]
)
def test_algorithms_2_look_further_in_regime_i_alone(
    rule: Callable[[Made], selection.Decision], chosen: float
) -> None:
    poor, well = trials(-0.3), trials(-0.01)
    found = rule(poor)
    assert found.chosen == chosen
    assert found.epochs == poor.spent == 3 * 2 * 2
    found = rule(well)
    assert (found.chosen, found.epochs) == (160, 2 * 2)
    assert well.spent == 4
    assert found.grid_epochs == 3 * 2 * 160 == selection.grid_search(well).epochs
    assert selection.grid_search(well).chosen == 20
    assert selection.select_best_dense(well).epochs == 0


def test_sams_radius_is_that_of_highest_cka() -> None:
    assert selection.select_rho(trials(0.0)).chosen == 40


def test_diverged_candidates_are_passed_over_and_all_diverged_is_an_error() -> None:
    made = trials(-0.3)
    made.dense[160] = np.nan
    assert selection.select_best_dense(made).chosen == 40
    made.outcomes[20] = Measurement(np.nan, np.nan, np.nan)
    assert selection.grid_search(made).chosen == 40
    made.dense = dict.fromkeys(made.dense, np.nan)
    with pytest.raises(ThreeRegimeError, match="did all of them diverge"):
        selection.select_best_dense(made)


def test_a_diverged_baseline_is_no_regime_ii() -> None:
    """Where the best dense net's copies diverge LMC is no number: that net must not be kept."""
    made = trials(np.nan)
    made.outcomes[160] = Measurement(np.nan, np.nan, np.nan)
    assert selection.select_by_error(made).chosen == 20
    assert selection.tune(made, 160).hotter is True


# Replays


def regimes(t: float, x: float) -> tuple[float, float, float]:
    """At density 0.05 the coldest is in Regime I and the worst, at 0.2 the best."""
    low = x == 0.05
    return (0.2 + t / 300 if low else 0.2 - t / 300, -0.2 if low and t > 10 else 0.0, 0.9 - t / 100)


def test_a_replay_shows_a_rule_its_pair_and_judges_by_the_others() -> None:
    made = tables(values=regimes)
    nets = made.nets.copy()
    nets.loc[nets["retrain_seed"] == 2, "test_error"] += 0.5
    made = dataclasses.replace(made, nets=nets)
    trial = Replay(made, 0.05, 1, (0, 1), WHOLE)
    assert trial.candidates == [10, 20, 30]
    assert trial.dense_error(20) == pytest.approx(1 / 21)
    assert trial.retrain(20, WHOLE).test_error == pytest.approx(0.2 + 20 / 300)
    assert trial.judged(20) == pytest.approx(0.7 + 20 / 300)
    assert Replay(made, 0.05, 1, (0, 2), WHOLE).judged(20) == pytest.approx(0.2 + 20 / 300)
    with pytest.raises(ThreeRegimeError, match="after 5 epochs"):
        trial.retrain(20, 5)


def test_with_two_copies_a_rule_is_judged_by_what_it_saw() -> None:
    made = tables(values=regimes)
    nets, pairs = made.nets, made.pairs
    made = dataclasses.replace(
        made, nets=nets[nets["retrain_seed"] < 2], pairs=pairs[pairs["seed_b"] < 2]
    )
    (trial,) = [t for t in replays(made, WHOLE) if (t.load, t.dense_seed) == (0.05, 0)]
    assert trial.judged(30) == pytest.approx(0.3)


def test_rules_play_on_every_load_seed_and_pair() -> None:
    made = tables(values=regimes)
    played = figure_statements.selections(made, WHOLE, 2, -0.05)
    assert len(played) == 4 * 2 * 3 * 3
    chosen = played.groupby(["rule", "density"])["chosen"].unique().map(list)
    # The usual choice is the longest trained, right at 0.2 and wrong at 0.05.
    assert chosen["best dense net"].tolist() == [[30], [30]]
    for rule in ("Algorithm 2", "Algorithm 2.1", "grid search"):
        assert chosen[rule].tolist() == [[10], [30]]
    spent = played[played["rule"] == "Algorithm 2"].groupby("density")["epochs"].unique()
    assert [list(x) for x in spent] == [[3 * 2 * 2], [2 * 2]]


def test_outcome_of_a_rule_has_its_interval_and_its_cost() -> None:
    played = pd.DataFrame(
        {
            "rule": ["a"] * 3 + ["b"] * 3,
            "dense_seed": [0, 1, 2] * 2,
            "test_error": [0.1, 0.2, 0.3, 0.1, 0.1, 0.1],
            "epochs": [2, 2, 8, 40, 40, 40],
            "grid_epochs": [40] * 6,
        }
    )
    made = summarize_rules(played, ["b", "a"])
    assert made["rule"].tolist() == ["b", "a"]
    # Student's t of two degrees of freedom, times a deviation of 10 points over sqrt(3).
    half = 4.302653 * 10 / 3**0.5
    assert made["test error (%)"].tolist() == [
        "10.00 (10.0 to 10.0)",
        f"20.00 ({20 - half:.1f} to {20 + half:.1f})",
    ]
    assert made["epochs of retraining"].tolist() == ["40", "4"]
    assert made["share of grid search"].tolist() == ["100.0%", "10.0%"]
    alone = summarize_rules(played[played["dense_seed"] == 0], ["a"])
    assert alone["test error (%)"].tolist() == ["10.00"]


def test_statements_on_selection_follow_the_table() -> None:
    made = tables(values=regimes, noise=1e-3)
    played = figure_statements.selections(made, WHOLE, 2, -0.05)
    better, close, cheaper = figure_statements.figure_4(played, "Algorithm 2", diagram(made))
    assert better.holds is True
    assert better.effect == pytest.approx(20 / 300, abs=0.005)
    assert close.holds is True
    assert cheaper.holds is True
    usual = played.assign(test_error=-played["test_error"])
    assert figure_statements.figure_4(usual, "Algorithm 2", diagram(made))[0].holds is False


# Algorithm 1 on whole diagrams


def test_algorithm_1_is_right_where_heating_helps_below_the_threshold_alone() -> None:
    epochs = (10, 20, 30, 40)
    made = tables(epochs, values=regimes, noise=1e-4)
    found = diagram(made)
    table = accuracy.confusion_table(found)
    assert table.to_numpy().tolist() == [[6, 0], [0, 6]]
    right = accuracy.accuracy_table(found, [-0.05]).iloc[0]
    assert (right["accuracy"], right["always hotter"]) == (1.0, 0.5)
    assert accuracy.costliest_mistakes({"made": found}).empty
    # The other way round it is never right.
    wrong = tables(epochs, values=lambda t, x: (1 - regimes(t, x)[0], *regimes(t, x)[1:]))
    assert accuracy.accuracy_table(diagram(wrong), [-0.05]).iloc[0]["accuracy"] == 0.0
    assert len(accuracy.costliest_mistakes({"made": diagram(wrong)})) == 4


def test_figure_3_and_15_hold_on_made_tables_and_fail_on_their_mirror() -> None:
    made = tables((10, 20, 30, 40), values=regimes, noise=1e-3)
    assert [s.holds for s in figure_statements.figure_3(diagram(made))] == [True, True]
    mirror = tables(
        (10, 20, 30, 40), noise=1e-3, values=lambda t, x: (1 - regimes(t, x)[0], *regimes(t, x)[1:])
    )
    assert [s.holds for s in figure_statements.figure_3(diagram(mirror))] == [False, False]
    poor = tables(values=lambda t, x: (t / 100, -0.2 - x, 0.8), noise=1e-3)
    assert [s.holds for s in figure_statements.figure_15(diagram(poor))] == [True, True]
    assert (
        figure_statements.figure_15(diagram(made))[0].holds is False
    )  # the density of 0.2 is in II


# SAM, Adam, translation


def test_figure_5_takes_differences_seed_by_seed() -> None:
    sgd = tables(values=regimes, noise=1e-3)

    def other(gain_in_one: float) -> Results:
        def values(t: float, x: float) -> tuple[float, float, float]:
            error, lmc, cka = regimes(t, x)
            return (error - gain_in_one, lmc / 2, cka + 0.05) if lmc < 0 else (error, lmc, cka)

        return tables(values=values, noise=1e-3, seed=1)

    helped = figure_statements.figure_5(diagram(sgd), diagram(other(0.05)))
    assert [s.holds for s in helped] == [True] * 4
    assert helped[0].effect == pytest.approx(0.05, abs=0.002)
    harmed = figure_statements.figure_5(diagram(sgd), diagram(other(-0.05)))
    assert [s.holds for s in harmed] == [False, True, True, False]
    # No cell in Regime I: nothing can be said.
    well = tables(values=lambda t, x: (0.1, 0.0, 0.9), noise=1e-3)
    assert figure_statements.figure_5(diagram(well), diagram(well))[0].holds is None


def over_rho(values: Callable[[float, float], tuple[float, float, float]]) -> Results:
    made = tables((0, 1, 2), (0.05, 0.1, 0.4), values=values, noise=1e-3)
    parts = {
        kind: getattr(made, kind).rename(columns={"epochs": "rho"})
        for kind in ("dense", "nets", "pairs", "early")
    }
    return dataclasses.replace(made, temperature="rho", **parts)


def test_figure_6_on_a_table_where_the_radius_matters() -> None:
    def values(rho: float, x: float) -> tuple[float, float, float]:
        error = 0.3 - rho / 20 if x == 0.05 else 0.1 + rho / 50
        return error, 0.0, 1 - error

    made = over_rho(values)
    judged = {s.name: s.holds for s in figure_statements.figure_6(diagram(made), made, WHOLE)}
    assert judged["rho_helps_low"] is True
    assert judged["rho_hurts_high"] is True
    assert judged["cka_beats_fixed"] is True
    flipped = over_rho(lambda rho, x: (values(rho, x)[0], 0.0, values(rho, x)[0]))
    judged = {s.name: s.holds for s in figure_statements.figure_6(diagram(flipped), flipped, WHOLE)}
    assert judged["cka_beats_fixed"] is False
    assert judged["cka_matches_grid"] is False


def test_figure_13_compares_the_four_settings() -> None:
    level = {"SGD, SGD": 0.2, "SGD, Adam": 0.1, "Adam, SGD": 0.3, "Adam, Adam": 0.2}
    made = {
        name: diagram(tables(values=lambda t, x, e=e: (e + t / 1000, -0.2, 0.9), noise=1e-3))
        for name, e in level.items()
    }
    judged = figure_statements.figure_13(made)
    assert [s.holds for s in judged] == [True] * 6
    assert judged[-1].effect == pytest.approx(0.1, abs=0.002)


def test_figure_14_on_low_and_on_high_densities() -> None:
    made = tables(values=regimes, noise=1e-3)
    assert [s.holds for s in figure_statements.figure_14(diagram(made))] == [True, True]


def test_the_hessian_is_judged_against_lmc_and_cka() -> None:
    made = tables(
        (10, 20, 30, 40), (0.05, 0.1, 0.2, 0.4), values=lambda t, x: regimes(t, min(x, 0.2))
    )
    rng = np.random.default_rng(0)
    nets = made.nets.assign(hessian_trace=rng.random(len(made.nets)))
    judged = figure_statements.local_metrics(dataclasses.replace(made, nets=nets))
    assert [s.name for s in judged] == [
        "lmc_beats_hessian_trace",
        "cka_softmax_beats_hessian_trace",
    ]
    assert figure_statements.local_metrics(made) == ()
    early = figure_statements.early_metrics(made)
    # What is measured after 2 epochs is what is measured at the end.
    assert [s.effect for s in early[1::2]] == [0.0, 0.0]


# The page


def test_a_report_computes_what_is_missing_and_names_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    made = Study.obtain(
        "figure_12",
        "smoke",
        temperatures=[2],
        loads=[0.05, 0.4],
        dense_seeds=2,
        retrain_seeds=2,
        device="cpu",
    )
    facts = made.facts().iloc[:, 0]
    assert (facts["cells"], facts["retrained nets"]) == ("2", "8")
    assert made.experiment.protocol.pruning.method == "global"
    assert "8 nets, 4 pairs" in made.sources().data
    assert len(best_temperature_table(made.diagram)) == 2
    with pytest.raises(ThreeRegimeError, match="not allowed"):
        Study.obtain("figure_06", "smoke", temperatures=[-1.0])


def test_what_is_not_measured_at_paper_scale_is_said_to_be_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert Study.at_paper_scale("figure_12") == []
    said = capsys.readouterr().out.splitlines()
    assert said == ["cifar10: not yet measured", "cifar10-jpeg: not yet measured"]
    Study.at_paper_scale("figure_11")
    assert capsys.readouterr().out.splitlines() == ["svhn: not yet measured"]


def test_verdicts_print_effect_and_interval() -> None:
    judged = figure_statements.figure_3(
        diagram(tables((10, 20, 30, 40), values=regimes, noise=1e-3))
    )
    text = verdict_tables.statement_table(judged, judged, heads=("one", "two")).data
    assert text.count("**holds**") == 4
    assert f"{judged[0].effect:+.3f} ({judged[0].low:+.3f} to {judged[0].high:+.3f})" in text
    nothing = dataclasses.replace(judged[0], holds=None, effect=np.nan)
    assert "**open** | no such cells" in verdict_tables.statement_table([nothing]).data


def test_every_figure_of_the_case_studies_is_drawn() -> None:
    made = tables((10, 20, 30, 40), values=regimes, noise=1e-3)
    found = diagram(made)
    played = figure_statements.selections(made, WHOLE, 2, -0.05)
    both = pd.concat([played.assign(study=name) for name in ("one", "two")])
    drawn = [
        case_studies.heating({"one": found}),
        case_studies.heating({"one": found, "two": found, "three": found}),
        case_studies.comparison({"g": {"SGD": found, "SAM": found}}, 0.05),
        case_studies.selection(both, {"one": found, "two": found}, "Algorithm 2"),
        case_studies.accuracy({"one": accuracy.accuracy_table(found)}, -0.05),
        metrics.local_metrics(found, {"trace": np.abs(found.grid("lmc")) + 1}),
        metrics.local_metrics(found, {"nothing": found.grid("lmc") * np.nan}),
    ]
    sam = over_rho(lambda rho, x: (0.1 + x * rho, 0.0, 0.9 - rho / 10))
    rules = {"CKA": selection.select_rho, "grid": selection.grid_search}
    drawn.append(case_studies.sam_radius(diagram(sam), replay_rules(replays(sam, WHOLE), rules)))
    for figure in drawn:
        assert figure.get_figwidth() == pytest.approx(7.4)
        figure.canvas.draw()


def test_the_catalogue_feeds_the_case_studies() -> None:
    """Figures 4 and 16 need what was measured after alpha epochs, at every scale."""
    for name in ("diagnostics", "figure_07"):
        for scale in catalogue.list_scales(name):
            early = catalogue.load_experiment(name, scale).protocol.metrics.early
            assert selection.EARLY_EPOCHS in early
