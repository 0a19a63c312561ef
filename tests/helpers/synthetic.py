"""Synthetic result tables with a known answer, and the diagrams that several tests share."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.results import Results, reference

PAIRS = ((0, 1), (0, 2), (1, 2))
RETRAINING_EPOCHS = 64

Values = Callable[[float, float], tuple[float, float, float]]


def make_tables(
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
            noisy = error + noise * rng.normal()
            nets.append({**key, "retrain_seed": r, "test_error": noisy, "diverged": False})
            nets[-1]["train_error"] = 0.0
        for a, b in PAIRS:
            metrics = {"lmc": lmc + noise * rng.normal(), "cka_softmax": cka, "cka_logits": cka / 2}
            pairs.append({**key, "seed_a": a, "seed_b": b, **metrics})
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


def make_diagram(tables: Results, **options: Any) -> PhaseDiagram:
    return PhaseDiagram.from_results(tables, **{"bootstrap": 200, **options})


def regimes(t: float, x: float) -> tuple[float, float, float]:
    """At density 0.05 the coldest is in Regime I and the worst, at 0.2 the best."""
    low = x == 0.05
    return (0.2 + t / 300 if low else 0.2 - t / 300, -0.2 if low and t > 10 else 0.0, 0.9 - t / 100)


def mirror(t: float, x: float) -> tuple[float, float, float]:
    """As `regimes`, but best where those are worst."""
    error, lmc, cka = regimes(t, x)
    return (1 - error, lmc, cka)


def make_rho_tables(values: Values) -> Results:
    """Result tables over the radius of SAM."""
    tables = make_tables((0, 1, 2), (0.05, 0.1, 0.4), values=values, noise=1e-3)
    parts = {
        kind: getattr(tables, kind).rename(columns={"epochs": "rho"})
        for kind in ("dense", "nets", "pairs", "early")
    }
    return dataclasses.replace(tables, temperature="rho", **parts)


@functools.cache
def paper_diagram() -> PhaseDiagram:
    """The diagram of the paper's own values."""
    return PhaseDiagram.from_reference()


def noisy_paper_diagram(noise: float = 0.004) -> PhaseDiagram:
    """The paper's values with seeds and noise."""
    means = reference().set_index(["epochs", "density"])
    return make_diagram(
        make_tables(
            sorted(means.index.unique(0)),
            sorted(means.index.unique(1)),
            noise=noise,
            values=lambda t, x: tuple(means.loc[(t, x), ["test_error", "lmc", "cka"]]),
        )
    )


def row(table: pd.DataFrame, **key: float) -> pd.Series[Any]:
    """The one row whose columns have these values."""
    rows = table[np.logical_and.reduce([table[name] == x for name, x in key.items()])]
    assert len(rows) == 1
    return rows.iloc[0]
