"""Best temperatures, transitions, boundaries and comparisons of diagrams."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.synthetic import make_diagram, make_tables, paper_diagram, row
from threeregime.analysis.intervals import held_out_error
from threeregime.analysis.transitions import (
    best_temperatures,
    compare_cells,
    favourable_transitions,
    regime_boundaries,
    regime_label_positions,
)
from threeregime.errors import ThreeRegimeError


def test_favourable_transitions_on_the_reference() -> None:
    heating, cooling = favourable_transitions(paper_diagram())
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
    best = best_temperatures(paper_diagram())
    low = row(best, density=0.05)
    assert (low["best"], low["error_coldest"], low["regime_coldest"]) == (60, 0.1742, "I")
    assert row(best, density=0.8)["best"] > 100


def test_no_transition_where_there_is_no_gain() -> None:
    assert favourable_transitions(make_diagram(make_tables(epochs=(10,)))) == (None, None)


def test_boundaries_run_between_cells_of_different_regimes() -> None:
    tables = make_tables(
        (10, 20), (0.05, 0.1), values=lambda t, x: (0.1, -0.1 if t + x > 20 else 0, 0.9)
    )
    lines = regime_boundaries(make_diagram(tables))
    assert lines["II-A|II-B"].shape == (0, 2, 2)
    # Both cold cells are in Regime I: a line across, between the rows.
    assert sorted(lines["I|II"].tolist()) == [[[0, 1], [1, 1]], [[1, 1], [2, 1]]]


def test_names_are_written_inside_their_regimes() -> None:
    paper = paper_diagram()
    for name, (x, y) in regime_label_positions(paper).items():
        assert paper.grid("regime")[int(y), int(x)] == name


def test_compare_matches_epochs_by_their_fraction_of_the_run() -> None:
    tables = make_tables((8, 64, 128), (0.04, 0.05, 0.2))
    both = compare_cells(make_diagram(tables), paper_diagram())
    assert sorted(both["temperature"].unique()) == [0.0625, 0.5, 1.0]
    assert sorted(both["density"].unique()) == [0.05, 0.2]
    coldest = row(both, temperature=1.0, density=0.05)
    assert coldest["test_error_reference"] == 0.1742
    assert coldest["test_error_difference"] == pytest.approx(coldest["test_error"] - 0.1742)
    with pytest.raises(ThreeRegimeError, match="share no cell"):
        compare_cells(make_diagram(make_tables(densities=(0.03,))), paper_diagram())


def test_held_out_chooses_on_other_units_than_it_measures() -> None:
    # Each unit is lucky at another temperature; on the others that luck is not there.
    lucky = np.array([[0.0, 0.5, 0.5, 0.4], [0.5, 0.0, 0.5, 0.4], [0.5, 0.5, 0.0, 0.4]])
    gains = lucky[:, -1] - held_out_error(lucky[:, :-1, None])[:, 0]
    assert gains.tolist() == pytest.approx([-0.1, -0.1, -0.1])
    assert np.isnan(held_out_error(lucky[:1, :-1, None])).all()
