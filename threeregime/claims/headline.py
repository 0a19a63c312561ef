"""The headline: one effect combined over all studies by random effects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from threeregime.analysis import Array


@dataclass(frozen=True)
class Summary:
    """A mean effect over studies whose true effects differ.

    Attributes:
        effect: the mean.
        low: lower end of its 95 % interval.
        high: upper end.
        spread: standard deviation of the true effects among studies.
        studies: how many were combined.
    """

    effect: float
    low: float
    high: float
    spread: float
    studies: int


def combine(effects: Sequence[Array]) -> Summary:
    """Combine effects by dense seed, one array [D] per study, by random effects.

    The spread among studies is estimated by moments (DerSimonian and Laird, 1986), the interval
    by Student's t with weighted residuals (Hartung and Knapp, 2001). Studies with fewer than two
    known effects are left out; with fewer than two studies the interval is infinite.
    """
    known = [values[np.isfinite(values)] for values in effects]
    known = [values for values in known if len(values) > 1]
    if not known:
        return Summary(np.nan, -np.inf, np.inf, np.nan, 0)
    means = np.array([values.mean() for values in known])
    variances = np.array([values.var(ddof=1) / len(values) for values in known])
    variances = np.maximum(variances, 1e-12)
    weights, count = 1 / variances, len(known)
    residual = np.sum(weights * (means - np.average(means, weights=weights)) ** 2)
    scale = weights.sum() - np.sum(weights**2) / weights.sum()
    between = max(0.0, (residual - (count - 1)) / scale) if scale > 0 else 0.0
    weights = 1 / (variances + between)
    effect = float(np.average(means, weights=weights))
    if count < 2:
        return Summary(effect, -np.inf, np.inf, np.nan, count)
    error = np.sqrt(np.average((means - effect) ** 2, weights=weights) / (count - 1))
    half = float(stdtrit(count - 1, 0.975) * error)
    return Summary(effect, effect - half, effect + half, float(np.sqrt(between)), count)
