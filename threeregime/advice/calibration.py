"""How likely each regime is, given LMC and CKA of a pair: from the tables that this project ships.

A pair of copies is noisy, and a short retraining is not a whole one. How far the two can be trusted
is read off nets of which it is known: those of the experiment ``diagnostics``, whose pairs were
measured early in retraining and at its end. Where its tables are missing, those of ``figure_02``
serve, measured at the end alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from threeregime.analysis import REGIMES, Array, PhaseDiagram
from threeregime.data import load_images
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import load_experiment
from threeregime.results import Results, load_results

EXPERIMENTS = ("diagnostics", "figure_02")
SCALE = "digits"
MOST_ALIKE = 1e-4
"""1 - CKA is not told apart below this: its logarithm would run away."""
ALIKE = 0.3
"""Pairs that look alike are nearer than this, in standard deviations of the tables' pairs."""
FEWEST = 20
"""Of fewer pairs that look alike nothing is said."""


@dataclass(frozen=True)
class Calibration:
    """What became of nets that looked like one.

    Attributes:
        model: scikit-learn's, from LMC and log10(1 - CKA) to a regime.
        experiment: whose tables it is fitted on.
        epoch: of retraining, at which their pairs were measured.
        epochs: of their whole retraining.
        given: LMC and log10(1 - CKA) of the pairs [n, 2].
    """

    model: Any
    experiment: str
    epoch: int
    epochs: int
    given: Array

    def probabilities(self, lmc: float, cka: float) -> dict[str, float] | None:
        """The probability of each regime, in their order; they sum to 1.

        None where fewer than `FEWEST` pairs looked alike: what is fitted says nothing there.
        """
        here = features(np.array([lmc]), np.array([cka]))
        away = (self.given - here) / self.given.std(axis=0)
        if (np.hypot(*away.T) < ALIKE).sum() < FEWEST:
            return None
        found = self.model.predict_proba(here)[0]
        known = dict(zip(self.model.classes_.tolist(), found.tolist(), strict=True))
        return {regime: float(known.get(regime, 0.0)) for regime in REGIMES}

    @property
    def words(self) -> str:
        """Where the probability comes from, in one sentence."""
        when = (
            f"at the end of {self.epochs} epochs of retraining"
            if self.epoch == self.epochs
            else f"{self.epoch} epochs into retraining and judged after {self.epochs}"
        )
        return (
            f"fitted to {len(self.given):,} pairs of small nets that read handwritten digits (this "
            f"project's {self.experiment}), measured {when}"
        )


def features(lmc: Array, cka: Array) -> Array:
    """What regimes are told by, [n, 2]: LMC and the logarithm of what CKA lacks of one."""
    return np.stack([lmc, np.log10(np.maximum(1 - cka, MOST_ALIKE))], axis=1)


def load_calibration(steps: int, *roots: Path) -> Calibration | None:
    """The calibration for pairs that were retrained for so many steps.

    Of the epochs at which the tables' pairs were measured it takes the one whose number of steps is
    nearest, by their ratio. What these pairs are to tell is the regime that the mean over seeds
    gives their cell at the end of retraining (`PhaseDiagram`).

    Args:
        steps: of one copy.
        roots: folders of tables, the shipped ones if none is named.

    Returns:
        None where there are no tables, or all cells are in one regime.
    """
    for name in EXPERIMENTS:
        experiment = load_experiment(name, SCALE)
        try:
            tables = load_results(experiment, *roots)
        except ThreeRegimeError:
            continue
        recipe = experiment.protocol.retraining
        each = load_images(experiment.protocol.data.name).count // recipe.batch_size
        end = tables.pairs.assign(epoch=recipe.epochs)
        whole = pd.concat([tables.early, end]) if len(tables.early) else end
        made = np.unique(whole["epoch"])
        nearest = int(made[np.abs(np.log(made * each / steps)).argmin()])
        fitted = _fitted(tables, whole[whole["epoch"] == nearest])
        if fitted is not None:
            return Calibration(fitted[0], name, nearest, recipe.epochs, fitted[1])
    return None


def _fitted(tables: Results, pairs: pd.DataFrame) -> tuple[Any, Array] | None:
    """A classifier of pairs and what it was given [n, 2]; None where all are of one regime."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    axes = [tables.temperature, tables.load]
    cells = PhaseDiagram.from_results(tables, bootstrap=0).cells
    known = pairs.merge(cells[[*axes, "regime"]].dropna(), on=axes)
    known = known[np.isfinite(known["lmc"]) & np.isfinite(known["cka_softmax"])]
    if known["regime"].nunique() < 2:
        return None
    given = features(known["lmc"].to_numpy(float), known["cka_softmax"].to_numpy(float))
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return model.fit(given, known["regime"].to_numpy(str)), given
