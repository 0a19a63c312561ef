"""Algorithm 1 on whole diagrams."""

from __future__ import annotations

from tests.helpers.synthetic import make_diagram, make_tables, mirror, regimes
from threeregime.algorithms import accuracy


def test_algorithm_1_is_right_where_heating_helps_only_below_the_threshold() -> None:
    epochs = (10, 20, 30, 40)
    diagram = make_diagram(make_tables(epochs, values=regimes, noise=1e-4))
    assert accuracy.confusion_table(diagram).to_numpy().tolist() == [[6, 0], [0, 6]]
    right = accuracy.accuracy_table(diagram, [-0.05]).iloc[0]
    assert (right["accuracy"], right["always hotter"]) == (1.0, 0.5)
    assert accuracy.costliest_mistakes({"right": diagram}).empty
    wrong = make_diagram(make_tables(epochs, values=mirror))
    assert accuracy.accuracy_table(wrong, [-0.05]).iloc[0]["accuracy"] == 0.0
    assert len(accuracy.costliest_mistakes({"wrong": wrong})) == 4
