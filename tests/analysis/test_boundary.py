"""Following the boundary of Regime I without computing the diagram."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from threeregime.analysis import boundary
from threeregime.analysis.boundary import Cell
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.results import Results, load_results
from threeregime.sweep import compute


def staircase(crossing: Sequence[int]) -> tuple[list[Cell], boundary.Measure]:
    """A measure with the boundary at the given rows, and the cells that it is asked for."""
    asked: list[Cell] = []

    def measure(cells: Sequence[Cell]) -> dict[Cell, float]:
        asked.extend(cells)
        return {(t, x): 0.0 if t < crossing[int(x)] else -0.3 for t, x in cells}

    return asked, measure


@given(st.lists(st.integers(0, 16), min_size=1, max_size=9).map(sorted))
def test_a_boundary_that_only_rises_is_found_exactly(crossing: list[int]) -> None:
    asked, measure = staircase(crossing)
    line = boundary.follow_boundary(range(16), range(len(crossing)), measure)
    assert list(line.crossing) == crossing
    assert len(asked) == len(set(asked)) == len(line.lmc)
    # No load needs more than a bisection of 17 outcomes.
    assert len(asked) <= 5 * len(crossing)
    assert line.in_regime_one.sum() == sum(16 - c for c in crossing)


def test_a_diagram_of_one_regime_takes_a_handful_of_cells() -> None:
    for crossing, edge in (([16] * 9, "none"), ([0] * 9, 0)):
        asked, measure = staircase(crossing)
        line = boundary.follow_boundary(range(16), range(9), measure)
        assert len(asked) <= 10
        assert list(line.crossing) == crossing
        assert set(line.table()["hottest of I"]) == {str(edge)}


def test_diverged_cells_count_as_regime_i_and_noise_breaks_nothing() -> None:
    line = boundary.follow_boundary(range(8), range(5), lambda cells: dict.fromkeys(cells, np.nan))
    assert line.in_regime_one.all()
    rng = np.random.default_rng(0)
    for _ in range(20):
        noise = boundary.follow_boundary(range(8), range(6), lambda c: {x: rng.normal() for x in c})
        assert noise.in_regime_one.shape == (8, 6)


def test_on_the_papers_own_diagram_a_fifth_of_the_cells_tells_all() -> None:
    paper = PhaseDiagram.from_reference()
    lmc = paper.cells.set_index(["epochs", "density"])["lmc"]
    line = boundary.follow_boundary(
        paper.temperatures, paper.loads, lambda cells: {c: float(lmc[c]) for c in cells}
    )
    assert line.share < 0.25
    assert line.agreement(paper) == 1.0


def test_only_the_cells_that_an_experiment_needs_are_computed(tmp_path: Path) -> None:
    fields = {"data.images": 160, "metrics.points": 3}
    experiment = (
        catalogue.load_experiment("figure_02", "smoke").with_fields(fields).with_seeds(1, 2)
    )
    planned = []

    def obtain(part: Experiment) -> Results:
        planned.append(len(part.units()))
        return compute.obtain_results(part, "cpu", recompute=True, runs=tmp_path)

    line = boundary.follow_boundary_of(experiment, obtain)
    computed = load_results(experiment, tmp_path)
    cells = set(zip(computed.nets["epochs"], computed.nets["density"], strict=True))
    assert cells == set(line.lmc)
    assert sum(planned) == len(line.lmc) < 6
    # One dense run, with all stops, serves all rounds.
    assert len(computed.dense) == len(experiment.temperatures)
    shards = list((tmp_path / "figure_02" / "smoke").glob("dense-*.parquet"))
    assert len(shards) == 1


def test_several_variants_must_be_told_apart() -> None:
    with pytest.raises(ThreeRegimeError, match=r"variant = '' .* SGD or SAM"):
        boundary.describe_boundary(catalogue.load_experiment("figure_05", "clutter"))
    text = boundary.describe_boundary(catalogue.load_experiment("figure_05", "clutter"), "SAM")
    assert "the whole diagram is there too: it agrees in" in text
    with pytest.raises(ThreeRegimeError, match="from -1 to 0"):
        boundary.describe_boundary(catalogue.load_experiment("figure_02", "clutter"), threshold=0.5)
