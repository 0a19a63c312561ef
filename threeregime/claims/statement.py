"""How a statement on a phase diagram is judged: one effect, its interval, one rule.

A statement becomes an effect that is positive where the statement holds, and a rule decides:

- with seeds, it holds where the effect's 95 % interval lies above 0, does not hold where it lies
  below, and is left open (None) where the interval has 0 inside or there is none;
- on published means without seeds the sign of the effect decides, and there is no interval;
- a diagram without the cells that a statement speaks of leaves it open, with the effect NaN.

The interval is the effect plus or minus Student's t, at one degree of freedom less than there are
dense seeds, times the standard deviation over the bootstrap replicates. With three dense seeds
t = 4.3: on normal noise that covers the truth in 94 % to over 99 % of trials, where the replicates'
own percentiles cover it in 74 % to 92 %. Regimes are those of the means in every replicate.
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
    """One statement and what a diagram says of it.

    Attributes:
        name: short key.
        statement: what is claimed.
        holds: True, False, or None where the data leave it open.
        effect: a number that is positive where the statement holds; errors are fractions.
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
    also: bool | None = True,
) -> Statement:
    """Judge an effect, a function of grids [..., T, L] by metric, on the means and replicates."""
    value, half = np.nan, np.nan
    if effect is not None:
        value = float(effect({metric: diagram.grid(metric) for metric in METRICS}))
        if diagram.has_seeds and np.isfinite(value):
            drawn = effect(diagram.replicates)
            seeds = len(next(iter(diagram.by_seed.values())))
            half = t_half_width(drawn[np.isfinite(drawn)].std(), seeds)
    return judge_effect(diagram, name, statement, value, half, detail, also)


def judge_effect(
    diagram: PhaseDiagram,
    name: str,
    statement: str,
    effect: float,
    half: float,
    detail: str,
    also: bool | None = True,
) -> Statement:
    """Apply the rule that the module states.

    ``also`` is a further condition: where False the statement does not hold, where None it cannot.
    """
    holds = _verdict(effect, half) if diagram.by_seed else _sign(effect)
    if np.isfinite(effect) and also is not True:
        holds = False if also is False or holds is False else None
    return Statement(name, statement, holds, effect, effect - half, effect + half, detail)


def judge_seed_effects(name: str, statement: str, effects: ArrayLike, detail: str) -> Statement:
    """Judge an effect that each dense seed gives by itself, by Student's t over the dense seeds.

    Args:
        name: short key.
        statement: what is claimed.
        effects: one a dense seed [D]; those that are no number are left out.
        detail: the numbers behind it.
    """
    known = np.asarray(effects, dtype=float)
    known = known[np.isfinite(known)]
    effect, half = float(mean(known, 0)), interval_half_width(known)
    ends = (effect - half, effect + half)
    return Statement(name, statement, _verdict(effect, half), effect, *ends, detail)


def _verdict(effect: float, half: float) -> bool | None:
    """Whether the interval lies above 0 or below it; None where it does not, or there is none."""
    decided = effect - half > 0 or effect + half < 0
    return effect > 0 if decided else None


def _sign(effect: float) -> bool | None:
    return effect > 0 if np.isfinite(effect) else None
