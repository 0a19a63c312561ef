"""Effects on grids over dense seeds, their intervals by Student's t, and means over studies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit  # type: ignore[import-untyped]

from threeregime.analysis.bootstrap import Array, mean


def contrast(plus: NDArray[np.bool_], minus: NDArray[np.bool_]) -> Callable[[Array], Array]:
    """Return a function of grids [..., T, L]: mean over ``plus`` minus mean over ``minus``.

    The difference is taken inside each load and averaged over the loads that have both.
    """

    def difference(values: Array) -> Array:
        left, right = (mean(np.where(mask, values, np.nan), -2) for mask in (plus, minus))
        return mean(left - right, -1)

    return difference


def held_out_error(values: Array) -> Array:
    """Error of each unit at the temperature that is best on all the others.

    Args:
        values: errors [units, T, n].

    Returns:
        Errors [units, n]; NaN for a single unit, and where the others have no error.
    """
    errors = np.full((len(values), values.shape[2]), np.nan)
    for unit in range(len(values) if len(values) > 1 else 0):
        others = mean(np.delete(values, unit, axis=0), 0)
        for j in range(values.shape[2]):
            if np.isfinite(others[:, j]).any():
                errors[unit, j] = values[unit, np.nanargmin(others[:, j]), j]
    return errors


def spearman(error: Array) -> float:
    """Rank correlation of error with coldness; NaN where the error does not change."""
    known = error[np.isfinite(error)]
    if len(known) < 2 or np.ptp(known) == 0:
        return np.nan
    return float(np.corrcoef(np.arange(len(known)), pd.Series(known).rank())[0, 1])


def rank_correlation(first: pd.Series, second: pd.Series) -> float:
    """Spearman's rank correlation of two columns; NaN where one of them does not change."""
    known = first.notna() & second.notna()
    if first[known].nunique() < 2 or second[known].nunique() < 2:
        return np.nan
    return float(first.corr(second, method="spearman"))


def interval_half_width(values: Array) -> float:
    """Half of the 95 % interval of a mean over dense seeds, from one value per seed [D].

    NaN values are ignored; NaN if fewer than two values remain.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return np.nan
    return t_half_width(known.std(ddof=1) / np.sqrt(len(known)), len(known))


def t_half_width(error: float, seeds: int, level: float = 0.05) -> float:
    """Half of an interval, from a standard error over ``seeds`` dense seeds; NaN for one.

    ``level`` is the two-sided chance of missing the truth; the default gives 95 % intervals.
    """
    return float(stdtrit(seeds - 1, 1 - level / 2) * error) if seeds > 1 else np.nan


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
