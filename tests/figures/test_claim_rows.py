"""The list of claims: every verdict a row that opens, with its effects drawn to scale."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from threeregime.claims.decisions import Decision
from threeregime.claims.registration import load_registration
from threeregime.claims.verdicts import Verdict
from threeregime.figures.claim_rows import SIGNS, claims_list

REGISTRATION = load_registration()


def verdict(claim: str, kind: str = "holds", **changes: Any) -> Verdict:
    decisions = [
        replace(Decision(part, kind, 6, 0.4, 0.1, 0.7, 0.01), **changes)
        for part in REGISTRATION.parts_of(claim)
    ]
    return Verdict(REGISTRATION.claims[claim], kind, tuple(decisions), ("figure_02",))


def test_each_claim_is_a_row_under_its_study() -> None:
    html = claims_list([verdict("heating_helps"), verdict("depth", "open")]).data
    assert re.findall(r'id="claim-(\w+)" class="claim (\w+)"', html) == [
        ("heating_helps", "holds"),
        ("depth", "open"),
    ]
    assert html.count("<section>") == 2
    assert html.index(">figure_02<") < html.index("claim-heating_helps") < html.index(">figure_15<")


def test_a_row_opens_to_rule_seeds_data_and_commands() -> None:
    html = claims_list([verdict("cifar10")]).data
    study = REGISTRATION.studies["cifar10"]
    last = study.first_dense_seed + 5
    assert f"dense seeds {study.first_dense_seed} to {last}, {study.copies} copies" in html
    assert (
        f"threeregime sweep figure_02 --scale mini --out mine --set data.name={study.data}" in html
    )
    assert "threeregime claims --only cifar10 --root mine" in html
    assert html.count("<dt>") == len(REGISTRATION.parts_of("cifar10"))


@pytest.mark.parametrize(("effect", "place"), [(-9.0, 8), (-1.5, 8), (0.0, 120), (9.0, 232)])
def test_an_effect_lies_to_scale_and_within_the_plot(effect: float, place: float) -> None:
    html = claims_list([verdict("heating_helps", effect=effect)]).data
    assert float(re.findall(r'cx="([\d.]+)"', html)[0]) == place


def test_an_interval_that_is_cut_off_has_an_arrow() -> None:
    def arrows(**ends: Any) -> int:
        return claims_list([verdict("heating_helps", **ends)]).data.count("<path")

    assert (arrows(), arrows(high=2.0), arrows(low=-2.0, high=2.0)) == (0, 1, 2)


def test_without_numbers_words_stand_in() -> None:
    empty = Verdict(REGISTRATION.claims["depth"], "not measured", (), ("figure_15",))
    html = claims_list([empty, verdict("heating_helps", effect=float("nan"))]).data
    assert "<circle" not in html
    assert "no complete tables of figure_15" in html
    assert "no such cells" in html
    assert "no dense seeds yet" in html


def test_statements_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = replace(REGISTRATION.claims["depth"], statement="a < b & c")
    assert "a &lt; b &amp; c" in claims_list([replace(verdict("depth"), claim=claim)]).data
    assert set(SIGNS) == {"holds", "contradicted", "mixed", "open", "not measured"}
