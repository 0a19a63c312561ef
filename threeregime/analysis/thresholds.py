"""The two thresholds that make three regimes, and a rule for the one that the paper leaves open."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from threeregime.analysis.bootstrap import Array

REGIMES = ("I", "II-A", "II-B")
LMC_THRESHOLD = -0.05


def otsu(values: Array) -> float:
    """Threshold that splits numbers into two groups, each as alike as can be.

    Of all cuts of the sorted values into two groups it takes the one that leaves the least variance
    inside the groups, equivalently the most between them (Otsu, "A threshold selection method from
    gray-level histograms", IEEE Trans. SMC 9(1), 1979), and returns the middle of that gap. NaN are
    left out. Values that are all one number go into the upper group; without values it is NaN.
    """
    x = np.sort(values[np.isfinite(values)])
    if x.size == 0 or x[0] == x[-1]:
        return float(x[0]) if x.size else np.nan
    below = np.arange(1, x.size)
    total = np.cumsum(x)
    apart = total[:-1] / below - (total[-1] - total[:-1]) / (x.size - below)
    between = np.where(x[1:] > x[:-1], below * (x.size - below) * apart**2, -1.0)
    cut = int(np.argmax(between))
    return float((x[cut] + x[cut + 1]) / 2)


def classify(lmc: Array, cka: Array, lmc_threshold: float, cka_threshold: float) -> NDArray[Any]:
    """Regime of each value: "I", "II-A" or "II-B", None where a number that decides is missing.

    Args:
        lmc: mean LMC, any shape; Regime I is ``lmc < lmc_threshold``.
        cka: mean CKA of softmax outputs, same shape; of the rest, II-B is ``cka >= cka_threshold``.
        lmc_threshold: the split of I from II.
        cka_threshold: the split of II-A from II-B.
    """
    regime = np.full(np.shape(lmc), None, dtype=object)
    connected = lmc >= lmc_threshold
    regime[lmc < lmc_threshold] = "I"
    regime[connected & (cka < cka_threshold)] = "II-A"
    regime[connected & (cka >= cka_threshold)] = "II-B"
    return regime
