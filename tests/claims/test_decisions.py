"""Decisions: levels, looks, and how parts make a claim's verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from threeregime.claims import decisions
from threeregime.claims.decisions import Decision, decide, false_discoveries, judge
from threeregime.claims.parts import Part
from threeregime.claims.registration import load_registration

RULES = load_registration().rules
PART = Part("heating_helps", "figure_02", "gain", "heating_gain", False, (("where", ("I",)),))


def with_effects(values: np.ndarray, monkeypatch: pytest.MonkeyPatch, seeds: int) -> Decision:
    monkeypatch.setattr(decisions, "part_effects", lambda part, evidence: values[:evidence])
    look: Any = lambda seeds: seeds  # noqa: E731 - the evidence is its number of seeds here
    return decide(PART, look, seeds, RULES)


def test_an_interval_covers_the_truth_as_often_as_its_level_says() -> None:
    rng = np.random.default_rng(0)
    effects = 0.3 + rng.standard_normal((4000, 6))
    judged = [judge(PART, row, RULES) for row in effects]
    covered = np.mean([d.low <= 0.3 <= d.high for d in judged])
    assert covered == pytest.approx(1 - RULES.level, abs=0.008)


def test_without_an_effect_one_in_twenty_is_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    trials = [with_effects(row, monkeypatch, 18).verdict for row in rng.standard_normal((4000, 18))]
    assert np.mean([verdict != "open" for verdict in trials]) == pytest.approx(0.052, abs=0.01)
    assert 0.3 < np.mean([v == "holds" for v in trials if v != "open"]) < 0.7


def test_an_effect_of_one_deviation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    rows = 1 + rng.standard_normal((1000, 18))
    trials = [with_effects(row, monkeypatch, 18) for row in rows]
    assert np.mean([d.verdict == "holds" for d in trials]) > 0.93
    assert {d.seeds for d in trials} == {6, 12, 18}  # each at the first look that decides it


def test_looks_end_where_nothing_large_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.tile([0.02, -0.02], 9)
    decision = with_effects(values, monkeypatch, 18)
    assert (decision.verdict, decision.seeds) == ("open", 6)
    assert decision.excluded < RULES.futile


def test_no_look_has_more_seeds_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.tile([1.0, -1.0], 9)
    assert with_effects(values, monkeypatch, 17).seeds == 12
    assert with_effects(values, monkeypatch, 5).seeds == 5  # fewer are judged as they are


def test_seeds_without_the_cells_are_left_out() -> None:
    decision = judge(PART, np.array([1.0, np.nan, 1.1, 0.9, np.nan, 1.0]), RULES)
    assert (decision.verdict, decision.seeds) == ("holds", 4)
    nothing = judge(PART, np.full(6, np.nan), RULES)
    assert (nothing.verdict, nothing.low, nothing.high) == ("open", -np.inf, np.inf)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "open"], "open"),
        (["holds", "contradicted"], "mixed"),
        (["contradicted", "open"], "contradicted"),
        (["open"], "open"),
    ],
)
def test_parts_make_a_verdict(parts: list[str], verdict: str) -> None:
    made = [Decision(PART, part, 6, 0.0, 0.0, 0.0, 1.0) for part in parts]
    assert decisions.verdict_of_claim(made) == verdict


def test_false_discoveries_are_those_of_benjamini_and_hochberg() -> None:
    values = [0.01, 0.04, 0.03, 0.005, 0.5]
    made = [Decision(PART, "open", 6, 0.0, 0.0, 0.0, p) for p in values]
    # sorted: .005 <= .01, .01 <= .02, .03 <= .03, .04 <= .04, .5 > .05
    assert false_discoveries(made) == [True, True, True, True, False]
    assert false_discoveries(made[-1:]) == [False]
