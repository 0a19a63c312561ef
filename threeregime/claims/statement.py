"""Judgement of a statement on a phase diagram: an effect, its interval, one rule.

A statement becomes an effect that is positive if the statement is true. The rule:

- with seeds, it holds if the effect's 95 % interval lies above 0, does not hold if the interval
  lies below 0, and is open (None) if the interval contains 0 or there is none;
- on published means without seeds the sign of the effect decides, and there is no interval;
- on a diagram without the cells in question it is open, with the effect NaN.

The interval is the effect plus or minus the standard deviation over the bootstrap replicates times
Student's t, with one degree of freedom less than there are dense seeds. With three dense seeds
t = 4.3: on normal noise that covers the truth in 94 % to over 99 % of trials, while the percentiles
of the replicates cover it in 74 % to 92 %. All replicates use the regimes of the means.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from threeregime.analysis import (
    METRICS,
    Array,
    PhaseDiagram,
    interval_half_width,
    mean,
    t_half_width,
)


@dataclass(frozen=True)
class Statement:
    """A statement with its verdict on a diagram.

    Attributes:
        name: short key.
        statement: the claim in words.
        holds: True, False, or None if the data leave it open.
        effect: a number that is positive if the statement is true; errors are fractions.
        low: lower end of its 95 % interval, NaN without seeds.
        high: upper end.
        detail: the numbers behind it, in words; errors in percent.
    """

    name: str
    statement: str
    holds: bool | None
    effect: float
    low: float
    high: float
    detail: str


def judge_grid_effect(
    diagram: PhaseDiagram,
    name: str,
    statement: str,
    effect: Callable[[Mapping[str, Array]], Array] | None,
    detail: str,
    condition: bool | None = True,
) -> Statement:
    """Judge an effect, a function of grids [..., T, L] by metric, on the means and replicates."""
    value, half = np.nan, np.nan
    if effect is not None:
        value = float(effect({metric: diagram.grid(metric) for metric in METRICS}))
        if diagram.has_seeds and np.isfinite(value):
            replicates = effect(diagram.replicates)
            seeds = len(next(iter(diagram.by_seed.values())))
            half = t_half_width(replicates[np.isfinite(replicates)].std(), seeds)
    return judge_effect(diagram, name, statement, value, half, detail, condition)


def judge_effect(
    diagram: PhaseDiagram,
    name: str,
    statement: str,
    effect: float,
    half: float,
    detail: str,
    condition: bool | None = True,
) -> Statement:
    """Apply the rule of this module to an effect and half of its interval.

    ``condition`` is a further condition of the statement: if False the statement does not hold, if
    None it is open at best.
    """
    if diagram.by_seed:
        holds = _verdict(effect, half)
    else:
        holds = effect > 0 if np.isfinite(effect) else None
    if np.isfinite(effect) and condition is not True:
        holds = False if condition is False or holds is False else None
    return Statement(name, statement, holds, effect, effect - half, effect + half, detail)


def judge_seed_effects(name: str, statement: str, effects: ArrayLike, detail: str) -> Statement:
    """Judge effects measured on each dense seed [D], by Student's t; NaN values are ignored."""
    known = np.asarray(effects, dtype=float)
    known = known[np.isfinite(known)]
    effect, half = float(mean(known, 0)), interval_half_width(known)
    ends = (effect - half, effect + half)
    return Statement(name, statement, _verdict(effect, half), effect, *ends, detail)


def _verdict(effect: float, half: float) -> bool | None:
    """Whether the interval lies above 0 or below it; None if neither or there is none."""
    decided = effect - half > 0 or effect + half < 0
    return effect > 0 if decided else None
