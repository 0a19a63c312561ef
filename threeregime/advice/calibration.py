"""Probabilities of the regimes, given LMC and CKA of a pair of copies, from the shipped tables.

A pair is noisy, and a short retraining shows only part of a whole one. How far to trust LMC and CKA
is learned from nets whose regime is known: those of the experiment ``diagnostics``, whose pairs
were measured early in retraining and at its end, or those of ``figure_02``, measured at the end.
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

KNOWN_NETS = Path(__file__).with_name("known_nets.csv")
EXPERIMENTS = ("diagnostics", "figure_02")
SCALE = "clutter"
MIN_CKA_DISTANCE = 1e-4
"""Smaller values of 1 - CKA count as this, which bounds the logarithm."""
NEIGHBOUR_DISTANCE = 0.3
"""Distance of similar pairs, in standard deviations of the tables' pairs."""
MIN_PAIRS = 400
"""Tables with fewer pairs, as of a single dense run, are no ground for a probability."""
MIN_NEIGHBOURS = 20
"""With fewer similar pairs there is no probability."""


@dataclass(frozen=True)
class Calibration:
    """A classifier of regimes, and the pairs that it is fitted to.

    Attributes:
        classifier: scikit-learn's, from :func:`features` to a regime.
        experiment: the experiment that the pairs are from.
        epoch: epoch of retraining at which the pairs were measured.
        epochs: epochs of the whole retraining.
        pairs: features of the pairs [n, 2].
    """

    classifier: Any
    experiment: str
    epoch: int
    epochs: int
    pairs: Array

    def probabilities(self, lmc: float, cka: float) -> dict[str, float] | None:
        """Return the probability of each regime, or None with fewer than `MIN_NEIGHBOURS`."""
        point = features(np.array([lmc]), np.array([cka]))
        offsets = (self.pairs - point) / self.pairs.std(axis=0)
        if (np.hypot(*offsets.T) < NEIGHBOUR_DISTANCE).sum() < MIN_NEIGHBOURS:
            return None
        values = self.classifier.predict_proba(point)[0].tolist()
        by_regime = dict(zip(self.classifier.classes_.tolist(), values, strict=True))
        return {regime: by_regime.get(regime, 0.0) for regime in REGIMES}

    @property
    def words(self) -> str:
        """Source of the probabilities, as the end of a sentence."""
        when = (
            f"at the end of {self.epochs} epochs of retraining"
            if self.epoch == self.epochs
            else f"{self.epoch} epochs into retraining and judged after {self.epochs}"
        )
        return (
            f"fitted to {len(self.pairs):,} pairs of small nets that read handwritten digits (this "
            f"project's {self.experiment}), measured {when}"
        )


def features(lmc: Array, cka: Array) -> Array:
    """Return the features of pairs [n, 2]: LMC and log10(1 - CKA)."""
    return np.stack([lmc, np.log10(np.maximum(1 - cka, MIN_CKA_DISTANCE))], axis=1)


def load_calibration(steps: int, *roots: Path) -> Calibration | None:
    """Return the calibration for pairs after some steps of retraining.

    Of the epochs at which the tables' pairs were measured, the one with the nearest number of steps
    (by ratio) is used. The target is the regime of the pair's cell at the end of retraining, by the
    mean over seeds (`PhaseDiagram`).

    Args:
        steps: number of training steps of one copy.
        roots: folders of tables; by default the shipped ones.

    Returns:
        None if there are no tables, or they hold few pairs or a single regime.
    """
    for name in EXPERIMENTS:
        experiment = load_experiment(name, SCALE)
        try:
            tables = load_results(experiment, *roots)
        except ThreeRegimeError:
            continue
        recipe = experiment.protocol.retraining
        steps_per_epoch = load_images(experiment.protocol.data.name).count // recipe.batch_size
        final = tables.pairs.assign(epoch=recipe.epochs)
        pairs = pd.concat([tables.early, final]) if len(tables.early) else final
        epochs = np.unique(pairs["epoch"])
        epoch = int(epochs[np.abs(np.log(epochs * steps_per_epoch / steps)).argmin()])
        fit = _fit(tables, pairs[pairs["epoch"] == epoch])
        if fit is not None:
            return Calibration(fit[0], name, epoch, recipe.epochs, fit[1])
    return None


def _fit(tables: Results, pairs: pd.DataFrame) -> tuple[Any, Array] | None:
    """Return a classifier of pairs and their features [n, 2]; None for few or of one regime."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    axes = [tables.temperature, tables.load]
    cells = PhaseDiagram.from_results(tables, bootstrap=0).cells
    pairs = pairs.merge(cells[[*axes, "regime"]].dropna(), on=axes)
    pairs = pairs[np.isfinite(pairs["lmc"]) & np.isfinite(pairs["cka_softmax"])]
    if pairs["regime"].nunique() < 2 or len(pairs) < MIN_PAIRS:
        return None
    inputs = features(pairs["lmc"].to_numpy(float), pairs["cka_softmax"].to_numpy(float))
    classifier = make_pipeline(StandardScaler(), LogisticRegression())
    return classifier.fit(inputs, pairs["regime"].to_numpy(str)), inputs
