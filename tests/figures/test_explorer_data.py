"""The numbers of the explorer are those of the tables."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.helpers.synthetic import make_diagram, make_tables
from threeregime._paths import ROOT
from threeregime.analysis import Summary
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.study import Study
from threeregime.analysis.thresholds import classify
from threeregime.analysis.transitions import temperature_gains
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.figures import explorer
from threeregime.figures.explorer_data import explorer_data
from threeregime.results import load_results

RNG = np.random.default_rng(0)
EXACT = ("lmc", "cka_softmax")


def at(shown: dict[str, Any], name: str, row: int, column: int) -> Any:
    return shown["cells"][name][row * len(shown["load"]["values"]) + column]


def test_grid_holds_the_diagrams_numbers(studies: list[Study], box: explorer.Explorer) -> None:
    assert len(box.grid["diagrams"]) == len(studies)
    for shown, study in zip(box.grid["diagrams"], studies, strict=True):
        best, *gains = temperature_gains(study.diagram)
        known = dict(zip(("gain", "gain_low", "gain_high"), gains, strict=True))
        for name, values in shown["cells"].items():
            expected = known[name] if name in known else study.diagram.grid(name)
            actual = np.array(values, dtype=float).reshape(expected.shape)
            np.testing.assert_allclose(actual, expected.astype(float), rtol=1e-5)
            if name in EXACT:
                np.testing.assert_array_equal(actual, expected)
        assert shown["best"] == [i if i >= 0 else None for i in best.tolist()]
        regime = classify(
            np.array(shown["cells"]["lmc"], float),
            np.array(shown["cells"]["cka_softmax"], float),
            shown["lmc_threshold"],
            shown["cka_threshold"],
        )
        regime[np.array(shown["cells"]["no_nets"], dtype=bool)] = None
        assert regime.tolist() == study.diagram.grid("regime").ravel().tolist()


def test_curves_are_the_means_over_pairs(studies: list[Study], box: explorer.Explorer) -> None:
    for shown, study in zip(box.grid["diagrams"], studies, strict=True):
        d, pairs = study.diagram, study.tables.pairs
        for _ in range(10):
            i, j = RNG.integers(len(d.temperatures)), RNG.integers(len(d.loads))
            rows = pairs[
                (pairs[d.temperature] == d.temperatures[i]) & (pairs[d.load] == d.loads[j])
            ]
            expected = np.mean([np.asarray(c) for c in rows["curve"]], axis=0)
            curve = shown["curves"][i * len(d.loads) + j]
            np.testing.assert_allclose(curve, expected, rtol=1e-3)


def test_errors_by_seed_are_means_over_copies(studies: list[Study], box: explorer.Explorer) -> None:
    for shown, study in zip(box.grid["diagrams"], studies, strict=True):
        d, nets = study.diagram, study.tables.nets
        i, j = len(d.temperatures) - 1, 0
        cell = nets[(nets[d.temperature] == d.temperatures[i]) & (nets[d.load] == d.loads[j])]
        expected = [
            cell.loc[cell["dense_seed"] == seed, "test_error"].mean()
            for seed in sorted(cell["dense_seed"].unique())
        ]
        np.testing.assert_allclose(shown["by_seed"][i * len(d.loads) + j], expected, rtol=1e-3)


def test_headline_is_shown_where_it_is_given(studies: list[Study]) -> None:
    mean = Summary(effect=0.5, low=0.25, high=0.75, spread=0.1, studies=3)
    given = explorer_data(studies[:1], mean)["headline"]
    assert given == {"effect": 0.5, "low": 0.25, "high": 0.75, "studies": 3}
    assert explorer_data(studies[:1])["headline"] is None


def test_grid_is_small(box: explorer.Explorer) -> None:
    assert len(json.dumps(box.grid)) < 1.5e6
    assert len(explorer.widget_script()) < 60_000


def test_gain_is_measured_on_other_seeds_than_the_best_is_chosen_on() -> None:
    diagram = make_diagram(make_tables(noise=0.05, dense_seeds=4))
    _, gain, low, high = temperature_gains(diagram)
    errors = diagram.by_seed["test_error"]
    for i in range(len(diagram.temperatures)):
        for j in range(len(diagram.loads)):
            fair = []
            for d in range(4):
                others = [np.mean([errors[e, t, j] for e in range(4) if e != d]) for t in range(3)]
                fair.append(errors[d, i, j] - errors[d, int(np.argmin(others)), j])
            half = 3.182446 * np.std(fair, ddof=1) / 2  # Student's t at 3 degrees of freedom
            assert gain[i, j] == pytest.approx(np.mean(fair))
            assert [low[i, j], high[i, j]] == pytest.approx(
                [np.mean(fair) - half, np.mean(fair) + half], abs=1e-7
            )


def test_gain_needs_two_seeds() -> None:
    best, *gains = temperature_gains(PhaseDiagram.from_reference())
    assert (best >= 0).all()
    assert all(np.isnan(values).all() for values in gains)


def test_several_variants_are_refused() -> None:
    experiment = catalogue.load_experiment("figure_05", "clutter")
    tables = load_results(experiment)
    several = Study.from_results(experiment, tables)
    with pytest.raises(ThreeRegimeError, match=r"figure_05 has several diagrams, SGD, SAM"):
        explorer_data([several])
    with pytest.raises(ThreeRegimeError, match="nothing to explore"):
        explorer_data([])


def test_stored_notebook_gives_its_explorer() -> None:
    traits = explorer.stored_traits(ROOT / "notebooks" / "explorer.ipynb")
    assert traits["grid"]["diagrams"][0]["key"] == traits["experiment"] == "figure_02/clutter"
    # The first thing shown makes the point: Regime I, and a gain of heating beyond the seeds.
    first = traits["grid"]["diagrams"][0]
    assert at(first, "p_I", traits["row"], traits["column"]) > 0.95
    assert at(first, "gain_low", traits["row"], traits["column"]) > 0
    assert (
        first["best"][traits["column"]] < traits["row"] == len(first["temperature"]["values"]) - 1
    )
    with pytest.raises(ThreeRegimeError, match="holds no explorer"):
        explorer.stored_traits(ROOT / "notebooks" / "figure_02.ipynb")
