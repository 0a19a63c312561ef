"""Forest plots: one row per part under the name of its study, whatever the intervals are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.figure import Figure

from threeregime.analysis import Summary
from threeregime.claims.decisions import Decision
from threeregime.claims.registration import load_registration
from threeregime.claims.verdicts import Verdict
from threeregime.figures import forest_plots

REGISTRATION = load_registration()


def verdict(claim: str, **changes: Any) -> Verdict:
    decisions = [
        replace(Decision(part, "holds", 6, 0.4, 0.1, 0.7, 0.01), **changes)
        for part in REGISTRATION.parts_of(claim)
    ]
    return Verdict(REGISTRATION.claims[claim], "holds", tuple(decisions), ("figure_02",))


def rows(figure: Figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


@pytest.fixture(autouse=True)
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threeregime.figures.forest_plots.registered_study", lambda name: None)


def test_parts_stand_under_their_study() -> None:
    figure = forest_plots.forest(
        [verdict("heating_helps"), verdict("lmc_boundary"), verdict("depth")]
    )
    assert rows(figure) == [
        "figure 02",
        "heating helps",
        "lmc boundary: rank",
        "lmc boundary: high densities",
        "figure 15",
        "depth: all in one",
        "depth: heating",
    ]


def test_effects_without_cells_and_endless_intervals_are_no_obstacle() -> None:
    none = verdict("heating_helps", effect=math.nan, low=-math.inf, high=math.inf)
    one = verdict("cooling_helps", effect=3.0, low=-math.inf, high=math.inf)
    figure = forest_plots.forest([none, one])
    assert rows(figure) == ["figure 02", "heating helps", "cooling helps"]
    low, high = figure.axes[0].get_xlim()
    assert -2 < low < high < 2


def test_the_mean_stands_below_the_studies() -> None:
    decisions = {"figure_02": verdict("heating_helps").decisions[0]}
    figure = forest_plots.headline_forest(Summary(0.4, 0.2, 0.6, 0.1, 2), decisions)
    assert rows(figure) == ["figure 02", "mean over studies"]
    assert len(figure.axes[0].patches) == 1
    alone = forest_plots.headline_forest(Summary(0.4, -math.inf, math.inf, math.nan, 1), decisions)
    assert not alone.axes[0].patches
