"""The negative controls themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tests.helpers.synthetic import RETRAINING_EPOCHS, make_diagram, make_tables
from threeregime.claims import controls
from threeregime.claims.decisions import judge
from threeregime.claims.estimands import part_effects
from threeregime.claims.evidence import Evidence
from threeregime.claims.registration import load_registration
from threeregime.experiments import catalogue
from threeregime.protocol import Pruning
from threeregime.results.tables import Results

RULES = load_registration().rules
NAMES = ("heating_helps", "cooling_helps")
PARTS = [part for name in NAMES for part in load_registration().parts_of(name)]


def test_pairs_of_copies_tell_one_dense_run_from_two() -> None:
    fields = {
        "dense.epochs": 2,
        "dense.milestones": [],
        "retraining.epochs": 1,
        "retraining.milestones": [],
        "metrics.points": 3,
    }
    protocol = catalogue.load_scale("smoke").update(fields)
    prunings = [Pruning(density=0.2), Pruning("n:m", 0.5, group=4)]
    prunings.append(Pruning("quantization", 1.0, bits=2))
    pairs = controls.pairs_of_copies(protocol, prunings, [0, 1], [0, 1, 2])
    for group in range(3):
        counts = pairs.loc[pairs["pruning"] == group, "from"].value_counts().to_dict()
        assert counts == {"one dense run": 6, "two dense runs": 9}
    assert pairs.groupby("pruning")["cka"].mean().nunique() == 3
    assert np.isfinite(pairs[["lmc", "cka"]]).all(axis=None)
    again = controls.pairs_of_copies(protocol, prunings, [0, 1], [0, 1, 2])
    pd.testing.assert_frame_equal(pairs, again)


def clear(t: float, x: float) -> tuple[float, float, float]:
    """Heating helps at the low density, which is in Regime I, and cooling at the high one."""
    return (0.1 + t / 100, -0.3, 0.8) if x == 0.05 else (0.5 - t / 100, 0.0, 0.95)


def test_shuffling_keeps_every_row_and_breaks_what_rests_on_the_temperature() -> None:
    tables = make_tables((10, 20, 30, 40), dense_seeds=5, values=clear, noise=1e-3)
    mixed = controls.shuffle_temperatures(tables, 0)
    for kind in ("nets", "pairs"):
        before, after = getattr(tables, kind), getattr(mixed, kind)
        assert (before.drop(columns="epochs") == after.drop(columns="epochs")).all(axis=None)
        # Each dense seed still has every temperature, and not the same ones in the same places.
        counts = after.groupby(["dense_seed", "epochs"]).size()
        assert counts.nunique() == 1
        assert (before["epochs"] != after["epochs"]).any()

    def held(shuffled: Results) -> list[bool]:
        diagram = make_diagram(shuffled, bootstrap=0)
        evidence = Evidence(shuffled, diagram, RULES, 0.9, 1000, RETRAINING_EPOCHS)
        return [judge(p, part_effects(p, evidence), RULES).verdict == "holds" for p in PARTS]

    assert held(tables) == [True, True]
    verdicts = [held(controls.shuffle_temperatures(tables, seed)) for seed in range(10)]
    assert np.mean(verdicts) < 0.2
