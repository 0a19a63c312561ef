"""Result tables made so that the answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.results import Results

PAIRS = ((0, 1), (0, 2), (1, 2))


def tables(
    epochs: Sequence[int] = (10, 20, 30),
    densities: Sequence[float] = (0.05, 0.2),
    dense_seeds: int = 3,
    noise: float = 0.0,
    seed: int = 0,
    values: Any = None,
) -> Results:
    """Result tables with ``values(epochs, density) -> (test error, lmc, cka)`` and normal noise.

    The dense nets' test error falls with the epochs, and after 2 epochs of retraining all is as at
    its end.
    """
    rng = np.random.default_rng(seed)
    values = values or (lambda t, x: (0.3 - x / 2 - t / 1000, -0.2 + x, 0.8 + x / 2))
    dense, nets, pairs, early = [], [], [], []
    for t, x, d in itertools.product(epochs, densities, range(dense_seeds)):
        error, lmc, cka = values(t, x)
        if x == densities[0]:
            dense.append({"epochs": t, "dense_seed": d, "test_error": 1 / (1 + t)})
        key = {"epochs": t, "density": x, "dense_seed": d}
        for r in range(3):
            made = error + noise * rng.normal()
            nets.append({**key, "retrain_seed": r, "test_error": made, "diverged": False})
        for a, b in PAIRS:
            measured = {
                "lmc": lmc + noise * rng.normal(),
                "cka_softmax": cka,
                "cka_logits": cka / 2,
            }
            pairs.append({**key, "seed_a": a, "seed_b": b, **measured})
            early.append({**pairs[-1], "epoch": 2, "test_error": error})
    return Results(
        "made",
        "test",
        "epochs",
        "density",
        dense=pd.DataFrame(dense),
        nets=pd.DataFrame(nets),
        pairs=pd.DataFrame(pairs),
        provenance=pd.DataFrame(),
        early=pd.DataFrame(early),
    )


def diagram(made: Results, **options: Any) -> PhaseDiagram:
    return PhaseDiagram.from_results(made, **{"bootstrap": 200, **options})
