"""Replay of the rules on result tables."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from tests.helpers.synthetic import RETRAINING_EPOCHS, make_tables, regimes
from threeregime.algorithms.replay import (
    Replay,
    replay_rules,
    replays,
    selection_rules,
    summarize_rules,
)
from threeregime.errors import ThreeRegimeError


def test_a_replay_measures_the_pair_and_evaluates_on_the_others() -> None:
    tables = make_tables(values=regimes)
    nets = tables.nets.copy()
    nets.loc[nets["retrain_seed"] == 2, "test_error"] += 0.5
    tables = dataclasses.replace(tables, nets=nets)
    trial = Replay(tables, 0.05, 1, (0, 1), RETRAINING_EPOCHS)
    assert trial.candidates == [10, 20, 30]
    assert trial.dense_error(20) == pytest.approx(1 / 21)
    assert trial.retrain(20, RETRAINING_EPOCHS).test_error == pytest.approx(0.2 + 20 / 300)
    assert trial.held_out_error(20) == pytest.approx(0.7 + 20 / 300)
    assert Replay(tables, 0.05, 1, (0, 2), RETRAINING_EPOCHS).held_out_error(20) == pytest.approx(
        0.2 + 20 / 300
    )
    with pytest.raises(ThreeRegimeError, match="after 5 epochs"):
        trial.retrain(20, 5)


def test_with_two_copies_a_choice_is_evaluated_on_the_pair() -> None:
    tables = make_tables(values=regimes)
    nets, pairs = tables.nets, tables.pairs
    tables = dataclasses.replace(
        tables, nets=nets[nets["retrain_seed"] < 2], pairs=pairs[pairs["seed_b"] < 2]
    )
    (trial,) = [
        t for t in replays(tables, RETRAINING_EPOCHS) if (t.load, t.dense_seed) == (0.05, 0)
    ]
    assert trial.held_out_error(30) == pytest.approx(0.3)


def test_rules_are_rechoices_on_every_load_seed_and_pair() -> None:
    tables = make_tables(values=regimes)
    choices = replay_rules(replays(tables, RETRAINING_EPOCHS), selection_rules(-0.05, 2))
    assert len(choices) == 4 * 2 * 3 * 3
    chosen = choices.groupby(["rule", "density"])["chosen"].unique().map(list)
    # The usual choice is the longest trained, right at 0.2 and wrong at 0.05.
    assert chosen["best dense net"].tolist() == [[30], [30]]
    for rule in ("Algorithm 2", "Algorithm 2.1", "grid search"):
        assert chosen[rule].tolist() == [[10], [30]]
    spent = choices[choices["rule"] == "Algorithm 2"].groupby("density")["epochs"].unique()
    assert [list(x) for x in spent] == [[3 * 2 * 2], [2 * 2]]


def test_summary_of_a_rule_has_its_interval_and_its_cost() -> None:
    choices = pd.DataFrame(
        {
            "rule": ["a"] * 3 + ["b"] * 3,
            "dense_seed": [0, 1, 2] * 2,
            "test_error": [0.1, 0.2, 0.3, 0.1, 0.1, 0.1],
            "epochs": [2, 2, 8, 40, 40, 40],
            "grid_epochs": [40] * 6,
        }
    )
    summary = summarize_rules(choices, ["b", "a"])
    assert summary["rule"].tolist() == ["b", "a"]
    # Student's t of two degrees of freedom, times a deviation of 10 points over sqrt(3).
    half = 4.302653 * 10 / 3**0.5
    assert summary["test error (%)"].tolist() == [
        "10.00 (10.0 to 10.0)",
        f"20.00 ({20 - half:.1f} to {20 + half:.1f})",
    ]
    assert summary["epochs of retraining"].tolist() == ["40", "4"]
    assert summary["share of grid search"].tolist() == ["100.0%", "10.0%"]
    alone = summarize_rules(choices[choices["dense_seed"] == 0], ["a"])
    assert alone["test error (%)"].tolist() == ["10.00"]
