"""Probabilities of hotter, colder or stay, learned from nets whose truth is known by brute force.

The kinds of nets of the role "train" are learned from; those of the role "test" show how far the
probabilities can be trusted (:mod:`threeregime.advice.accuracy`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from threeregime.analysis import Array
from threeregime.calibration.known_nets import KNOWN_NETS, load_known_nets

DIRECTIONS = ("hotter", "stay", "colder")
CANNOT_TELL = "cannot tell"
MIN_ERROR = 0.003
"""Smaller training errors count as this, which bounds the logarithm."""
MIN_DISTANCE = 1e-4
"""Smaller values of 1 - CKA count as this."""
MAX_DISTANCE = 2.5
"""Distance from all known nets, in their standard deviations, from which there is no ground."""
SURE = 0.55
"""A direction that is less probable is no answer."""
MIN_RIGHT = 0.1
"""A smaller share of right answers does not show how many labels are wrong."""
TREES = 100
LEAF = 16
"""Known nets in a leaf at least. This and the features were chosen by their logarithmic loss on the
kinds that are learned from, each predicted by others."""
MIN_WEIGHT = 0.02
"""A net teaches no direction that is less probable."""


@dataclass(frozen=True)
class Measures:
    """Measurements of pruned nets, scalars or arrays [n]: what the direction is predicted from.

    Wrong labels in the training data show as copies that err more on held-out training examples
    than on test examples. A net that errs less on its training examples than their wrong labels and
    its test error let expect knows labels by heart.

    Attributes:
        lmc: linear mode connectivity of two retrained copies (Equation 1).
        cka: CKA of their outputs (Equation 2).
        dense_train: training error of the dense net, a fraction.
        dense_test: its error on test examples or, without these, on held-out ones.
        train: training error of the copies.
        test: their error on the examples of ``dense_test``.
        held_out: their error on training examples that were held out from the retraining.
        density: fraction of the weights that is kept.
    """

    lmc: ArrayLike
    cka: ArrayLike
    dense_train: ArrayLike
    dense_test: ArrayLike
    train: ArrayLike
    test: ArrayLike
    held_out: ArrayLike
    density: ArrayLike

    @classmethod
    def of_table(
        cls, nets: pd.DataFrame, held_out: bool, copies: int = 2, longer: bool = False
    ) -> Measures:
        """Return the measurements of known nets.

        Args:
            nets: rows of :func:`threeregime.calibration.load_known_nets`.
            held_out: whether errors are of held-out training examples instead of test examples.
            copies: number of copies whose errors are averaged, 1 or 2.
            longer: whether they were retrained for three times as many steps.
        """
        prefix = "longer_" if longer else ""
        test = "held_out" if held_out else "test"

        def mean(name: str) -> Array:
            # A mean of the frame's columns takes thirty times as long.
            return np.mean([nets[f"{prefix}{name}_{copy}"] for copy in range(copies)], axis=0)

        return cls(
            lmc=nets[f"{prefix}lmc"],
            cka=nets[f"{prefix}cka"],
            dense_train=nets["dense_train"],
            dense_test=nets[f"dense_{test}"],
            train=mean("train"),
            test=mean(test),
            held_out=mean("held_out"),
            density=nets["density"],
        )

    def features(self, similarity: bool = False) -> Array:
        """Return the features [n, 10], with LMC and CKA [n, 12]."""
        train, dense_train = np.asarray(self.train), np.asarray(self.dense_train)
        test, dense_test = np.asarray(self.test), np.asarray(self.dense_test)
        surplus = np.asarray(self.held_out) - test
        wrong = np.clip(surplus / np.maximum(1 - test, MIN_RIGHT), 0, 1)
        columns = [
            np.log10(np.maximum(dense_train, MIN_ERROR)),
            train - dense_train,
            dense_test - dense_train,
            test - dense_test,
            test - train,
            surplus,
            np.log10(self.density),
            wrong,
            wrong + (1 - wrong) * dense_test - dense_train,
            wrong + (1 - wrong) * test - train,
        ]
        if similarity:
            distance = np.maximum(1 - np.asarray(self.cka), MIN_DISTANCE)
            columns += [np.clip(self.lmc, -0.5, 0.05), np.log10(distance)]
        return np.stack(np.broadcast_arrays(*map(np.atleast_1d, columns)), axis=1)


@dataclass(frozen=True)
class Calibration:
    """A classifier of directions, and the known nets that it is fitted to.

    Attributes:
        classifier: scikit-learn's, from features to shares of directions.
        known: features of the known nets [n, features].
        nets: number of dense nets among them.
        kinds: number of kinds of nets.
        similarity: whether LMC and CKA are among the features.
    """

    classifier: Any
    known: Array
    nets: int
    kinds: int
    similarity: bool = False

    def probabilities(self, measures: Measures) -> dict[str, float] | None:
        """Return the probability of each direction for one net; None if no known net is similar."""
        (row,) = self.shares(measures)
        return None if np.isnan(row).any() else dict(zip(DIRECTIONS, row.tolist(), strict=True))

    def shares(self, measures: Measures) -> Array:
        """Return the probabilities of `DIRECTIONS`, [n, 3]; NaN where no known net is similar."""
        points = measures.features(self.similarity)
        spread = np.maximum(self.known.std(axis=0), 1e-9)
        offsets = (self.known[None] - points[:, None]) / spread
        near = np.linalg.norm(offsets, axis=2).min(axis=1) <= MAX_DISTANCE  # False if NaN
        shares = np.full((len(points), len(DIRECTIONS)), np.nan)
        if near.any():
            known = self.classifier.predict_proba(points[near])
            shares[near] = 0.0
            for number, name in enumerate(self.classifier.classes_):
                shares[near, DIRECTIONS.index(name)] = known[:, number]
        return shares

    @property
    def words(self) -> str:
        """Source of the probabilities, as the end of a sentence."""
        return (
            f"learned from {len(self.known):,} pruned nets whose truth is known, of {self.nets} "
            f"small dense nets of {self.kinds} kinds"
        )


@cache
def load_calibration(
    held_out: bool = False,
    without: tuple[str, ...] = (),
    similarity: bool = False,
    copies: int = 2,
    longer: bool = False,
) -> Calibration | None:
    """Return the calibration for nets with test data, or with held-out training data.

    Args:
        held_out: whether errors are of examples that were held out from the retraining.
        without: kinds that are not learned from.
        similarity: whether LMC and CKA are among the features.
        copies: number of copies whose errors are averaged, 1 or 2.
        longer: whether they were retrained for three times as many steps.

    Returns:
        None if there is no table.
    """
    if not KNOWN_NETS.exists():
        return None
    nets = load_known_nets().dropna(subset=["truth"])
    nets = nets.loc[(nets["role"] == "train") & ~nets["kind"].isin(without)]
    return fit(nets, held_out, similarity, copies, longer)


def fit(
    nets: pd.DataFrame,
    held_out: bool,
    similarity: bool = False,
    copies: int = 2,
    longer: bool = False,
) -> Calibration:
    """Return a random forest of known nets, rows of :func:`load_known_nets` with their truth.

    Each net teaches every direction, with the probability that it is the true one as its weight.
    """
    from sklearn.ensemble import RandomForestClassifier

    inputs = Measures.of_table(nets, held_out, copies, longer).features(similarity)
    usable = np.flatnonzero(np.isfinite(inputs).all(axis=1))
    nets, inputs = nets.iloc[usable], inputs[usable]
    weights = nets[[f"true_{name}" for name in DIRECTIONS]].to_numpy()
    rows, taught = np.nonzero(weights >= MIN_WEIGHT)
    classifier = RandomForestClassifier(
        TREES, min_weight_fraction_leaf=LEAF / len(nets), max_features=3, random_state=0
    ).fit(inputs[rows], np.array(DIRECTIONS)[taught], sample_weight=weights[rows, taught])
    dense = len(nets[["kind", "seed"]].drop_duplicates())
    return Calibration(classifier, inputs, dense, nets["kind"].nunique(), similarity)


def direction(probabilities: dict[str, float]) -> str:
    """Return the most probable direction, or "cannot tell" if it is not probable enough."""
    best = max(probabilities, key=probabilities.__getitem__)
    return best if probabilities[best] >= SURE else CANNOT_TELL
