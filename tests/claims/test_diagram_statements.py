"""The paper's statements on its Figure 2, on its own values and on tables with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.synthetic import make_diagram, make_tables, noisy_paper_diagram, paper_diagram
from threeregime.claims.diagram_statements import figure_2


def test_all_statements_hold_on_the_papers_own_values() -> None:
    statements = figure_2(paper_diagram())
    assert [s.holds for s in statements] == [True] * 7
    assert all(np.isnan([s.low, s.high]).all() for s in statements)


def test_statements_hold_on_a_clear_diagram_with_seeds() -> None:
    statements = {s.name: s for s in figure_2(noisy_paper_diagram(noise=0.002))}
    assert {name for name, s in statements.items() if s.holds} == {
        "two_a_beats_one",
        "two_b_beats_two_a",
        "lmc_boundary",
        "similarity_lower_in_one",
        "lmc_sharper",
        "heating_helps",
        "cooling_helps",
    }
    assert all(s.low <= s.effect <= s.high for s in statements.values())
    assert statements["heating_helps"].effect == pytest.approx(0.0257, abs=0.003)


def test_noise_alone_is_not_taken_for_a_gain() -> None:
    """Where nothing depends on anything, the best of 15 temperatures must not pass for a gain."""
    gains, naive, holds = [], [], 0
    for seed in range(8):
        tables = make_tables(
            range(10, 170, 10), (0.05, 0.1, 0.2), noise=0.02, seed=seed,
            values=lambda t, x: (0.1, -0.2 if x < 0.08 else 0.0, 0.9 + x / 4),
        )  # fmt: skip
        d = make_diagram(tables)
        statements = {s.name: s for s in figure_2(d)}
        gains.append(statements["heating_helps"].effect)
        error = d.grid("test_error")[:, 0]
        naive.append(error[-1] - error[:-1].min())
        holds += statements["heating_helps"].holds is True
    assert np.mean(naive) > 0.008
    assert abs(np.mean(gains)) < 0.5 * np.mean(naive)
    assert holds <= 1


def test_a_statement_does_not_hold_where_the_opposite_is_true() -> None:
    tables = make_tables(
        (10, 20, 30), (0.05, 0.1, 0.4), noise=1e-4,
        values=lambda t, x: (0.1 + t / 1000, -0.3 if x > 0.2 else 0.0, 0.8 if x < 0.2 else 0.95),
    )  # fmt: skip
    statements = {s.name: s for s in figure_2(make_diagram(tables))}
    for name in ("lmc_boundary", "similarity_lower_in_one", "cooling_helps"):
        assert statements[name].holds is False, statements[name]
    assert statements["lmc_boundary"].effect == -1


def test_statements_without_cells_are_open() -> None:
    for tables in (
        make_tables((10,), (0.05,)),
        make_tables((10,), (0.05, 0.2)),
        make_tables((10, 20), (0.05,)),
    ):
        for s in figure_2(make_diagram(tables, cka_threshold=0.9)):
            assert s.holds is None or np.isfinite(s.effect)
            assert s.detail
    one_seed = figure_2(make_diagram(make_tables(dense_seeds=1, noise=0.01)))
    assert all(s.holds in (None, False) and np.isnan(s.low) for s in one_seed)
