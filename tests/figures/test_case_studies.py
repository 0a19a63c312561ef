"""The figures of the case studies are drawn, at a column's width."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.helpers.synthetic import (
    RETRAINING_EPOCHS,
    make_diagram,
    make_rho_tables,
    make_tables,
    regimes,
)
from threeregime.algorithms import accuracy, selection
from threeregime.algorithms.replay import replay_rules, replays, selection_rules
from threeregime.figures import case_studies, regime_separation


def test_every_figure_of_the_case_studies_is_drawn() -> None:
    tables = make_tables((10, 20, 30, 40), values=regimes, noise=1e-3)
    diagram = make_diagram(tables)
    choices = replay_rules(replays(tables, RETRAINING_EPOCHS), selection_rules(-0.05, 2))
    both = pd.concat([choices.assign(study=name) for name in ("one", "two")])
    sam = make_rho_tables(lambda rho, x: (0.1 + x * rho, 0.0, 0.9 - rho / 10))
    rules = {"CKA": selection.select_rho, "grid": selection.grid_search}
    radii = replay_rules(replays(sam, RETRAINING_EPOCHS), rules)
    figures = [
        case_studies.heating({"one": diagram}),
        case_studies.heating({"one": diagram, "two": diagram, "three": diagram}),
        case_studies.comparison({"g": {"SGD": diagram, "SAM": diagram}}, 0.05),
        case_studies.selection(both, {"one": diagram, "two": diagram}, "Algorithm 2"),
        case_studies.accuracy({"one": accuracy.accuracy_table(diagram)}, -0.05),
        case_studies.sam_radius(make_diagram(sam), radii),
        regime_separation.local_metrics(diagram, {"trace": np.abs(diagram.grid("lmc")) + 1}),
        regime_separation.local_metrics(diagram, {"nothing": diagram.grid("lmc") * np.nan}),
    ]
    for figure in figures:
        assert figure.get_figwidth() == pytest.approx(7.4)
        figure.canvas.draw()
