"""The two thresholds that define the three regimes, and Otsu's rule for the one of CKA."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from threeregime.analysis.bootstrap import Array

REGIMES = ("I", "II-A", "II-B")
LMC_THRESHOLD = -0.05


def otsu(values: Array) -> float:
    """Threshold that splits numbers into two groups with the least variance inside the groups.

    The threshold is the middle of the gap between the groups (Otsu, "A threshold selection method
    from gray-level histograms", IEEE Trans. SMC 9(1), 1979). NaN values are ignored. If all values
    are equal, they form the upper group; without values the threshold is NaN.
    """
    x = np.sort(values[np.isfinite(values)])
    if x.size == 0 or x[0] == x[-1]:
        return float(x[0]) if x.size else np.nan
    below = np.arange(1, x.size)
    total = np.cumsum(x)
    distance = total[:-1] / below - (total[-1] - total[:-1]) / (x.size - below)
    # The least variance inside the groups is the largest variance between them.
    between = np.where(x[1:] > x[:-1], below * (x.size - below) * distance**2, -1.0)
    cut = int(np.argmax(between))
    return float((x[cut] + x[cut + 1]) / 2)


def classify(lmc: Array, cka: Array, lmc_threshold: float, cka_threshold: float) -> NDArray[Any]:
    """Regime of each value: "I", "II-A" or "II-B", None where a number that decides is missing.

    Args:
        lmc: mean LMC, any shape; Regime I is ``lmc < lmc_threshold``.
        cka: mean CKA of softmax outputs, same shape; of the rest, II-B is ``cka >= cka_threshold``.
        lmc_threshold: separates I from II.
        cka_threshold: separates II-A from II-B.
    """
    regime = np.full(np.shape(lmc), None, dtype=object)
    connected = lmc >= lmc_threshold
    regime[lmc < lmc_threshold] = "I"
    regime[connected & (cka < cka_threshold)] = "II-A"
    regime[connected & (cka >= cka_threshold)] = "II-B"
    return regime
