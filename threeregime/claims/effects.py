"""Effects of the registered parts: one number per dense seed, positive if the claim is true.

``registered.toml`` says what each effect is. Errors are compared as natural logarithms. The regimes
of a seed's cells are those of the means over the other seeds, and a temperature is chosen on the
other seeds: no seed judges a choice that it had a part in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import spearmanr  # type: ignore[import-untyped]

from threeregime.algorithms import (
    Rule,
    accuracy_by_seed,
    accuracy_change,
    grid_search,
    heating_outcomes,
    replay_rules,
    replays,
    select_rho,
    selection_rules,
)
from threeregime.analysis import (
    LMC_THRESHOLD,
    Array,
    areas_by_metric,
    contrast,
    held_out_error,
    mean,
    spearman,
)
from threeregime.claims.evidence import Evidence
from threeregime.results import Results


@dataclass(frozen=True)
class Effect:
    """An effect that parts may register.

    Attributes:
        words: what it is, with the part's options in braces.
        function: of the evidence and the options; returns one number per dense seed [D].
    """

    words: str
    function: Callable[..., Array]


EFFECTS: dict[str, Effect] = {}
"""The effects by name, as ``registered.toml`` uses them."""


def _effect(words: str) -> Callable[[Callable[..., Array]], Callable[..., Array]]:
    def register(function: Callable[..., Array]) -> Callable[..., Array]:
        EFFECTS[function.__name__] = Effect(words, function)
        return function

    return register


STEADY_RANGE = 0.1
"""Largest change of Algorithm 1's accuracy between near thresholds that counts as none."""


def third_of_loads(evidence: Evidence) -> int:
    """Number of loads in the upper, and in the lower, third; at least one."""
    return max(1, len(evidence.diagram.loads) // 3)


def _by_seed(evidence: Evidence, effect: Callable[[int], float]) -> Array:
    """Return an effect of each dense seed, by its index [D]."""
    return np.array([effect(seed) for seed in range(len(evidence.log_error))])


def _contrast(
    evidence: Evidence, values: Array, worse: Collection[str], better: Collection[str]
) -> Array:
    """Values in the worse minus those in the better regime, mean over loads that have both [D]."""
    regimes = evidence.regimes

    def effect(seed: int) -> float:
        cells = (np.isin(regimes[seed], list(names)) for names in (worse, better))
        return float(contrast(*cells)(values[seed]))

    return _by_seed(evidence, effect)


@_effect("log error of Regime {worse} minus {better}")
def regime_contrast(evidence: Evidence, worse: Collection[str], better: Collection[str]) -> Array:
    """Log error of the worse regime minus that of the better one at equal load [D]."""
    return _contrast(evidence, evidence.log_error, worse, better)


@_effect("log(1 - CKA) of Regime {worse} minus {better}")
def dissimilarity_contrast(
    evidence: Evidence, worse: Collection[str], better: Collection[str]
) -> Array:
    """The same of log(1 - CKA) [D]."""
    return _contrast(evidence, evidence.values_of("dissimilarity"), worse, better)


@_effect("rank correlation of LMC with the lightness of the load")
def lmc_by_load(evidence: Evidence) -> Array:
    """Rank correlation of LMC with the load, mean over temperatures [D]."""
    lmc = evidence.grid("lmc")

    def correlation(row: Array) -> float:
        return spearman(row) if np.isfinite(row).sum() >= 3 else np.nan

    return _by_seed(
        evidence, lambda seed: float(mean(np.array([correlation(row) for row in lmc[seed]]), 0))
    )


@_effect("LMC at light loads minus the threshold")
def lmc_at_high_load(evidence: Evidence) -> Array:
    """Mean LMC of the upper third of the densities, minus the threshold [D]."""
    high = evidence.grid("lmc")[..., -third_of_loads(evidence) :]
    return mean(high, (1, 2)) - LMC_THRESHOLD


def _crossing_lines(regime: NDArray[Any]) -> dict[int, NDArray[np.intp]]:
    """Lines along each axis of the grid that have cells in Regime I and others in II."""
    one, two = regime == "I", np.isin(regime, ("II-A", "II-B"))
    return {axis: np.flatnonzero(one.any(axis) & two.any(axis)) for axis in (0, 1)}


@_effect("largest step as a share of the range, LMC minus CKA")
def sharpness(evidence: Evidence) -> Array:
    """Largest step as a share of the range, LMC minus CKA [D].

    It is averaged over the lines that cross the edge of Regime I, within each direction and then
    over the two.
    """
    lmc, cka, regimes = evidence.grid("lmc"), evidence.grid("cka_softmax"), evidence.regimes

    def of_lines(values: Array, axis: int, lines: NDArray[np.intp]) -> float:
        steps = np.nanmax(np.abs(np.diff(values, axis=axis)), axis=axis)
        spread = np.nanmax(values, axis=axis) - np.nanmin(values, axis=axis)
        share = np.divide(steps, spread, out=np.full(spread.shape, np.nan), where=spread > 0)
        return float(mean(share[lines], 0))

    def effect(seed: int) -> float:
        differences = []
        for axis, lines in _crossing_lines(regimes[seed]).items():
            if len(lines):
                sharp, smooth = (of_lines(values[seed], axis, lines) for values in (lmc, cka))
                differences.append(sharp - smooth)
        return float(mean(np.array(differences), 0)) if differences else np.nan

    return _by_seed(evidence, effect)


@_effect("log error at the coldest minus hotter, where the coldest is in {where}")
def heating_gain(
    evidence: Evidence,
    where: Collection[str],
    window: tuple[float, float] | None = None,
    loads: str = "all",
) -> Array:
    """Log error at the coldest temperature minus that in the window, mean over loads [D].

    The loads are those whose coldest cell is in one of the regimes; of the temperatures in the
    window the one that is best on the other seeds is taken. ``window`` is in units of the
    temperature; None: that of the rules, as shares of the whole dense run. ``loads`` is "all" or
    "low" for the lower third of the densities.
    """
    temperatures, total = np.array(evidence.diagram.temperatures), evidence.diagram.total
    low, high = window or (total * share for share in evidence.rules.window)
    inside = np.flatnonzero((temperatures >= low) & (temperatures <= high))
    errors = evidence.log_error
    if len(errors) == 1:  # published means: the temperature of a load is chosen on the other loads
        best = held_out_error(errors[0][inside].T[..., None])[:, 0]
        gains = (errors[0, -1] - best)[None]
    else:
        gains = errors[:, -1] - held_out_error(errors[:, inside])
    gains = np.where(np.isin(evidence.regimes[:, -1], list(where)), gains, np.nan)
    return mean(gains[:, : third_of_loads(evidence)] if loads == "low" else gains, 1)


@_effect("log error at the hottest minus the coldest, light loads")
def cooling_gain(evidence: Evidence) -> Array:
    """Log error at the hottest minus that at the coldest, upper third of the densities [D]."""
    high = evidence.log_error[..., -third_of_loads(evidence) :]
    return mean(high[:, 0] - high[:, -1], 1)


@_effect("log error at the coldest minus the hottest, heavy loads")
def hottest_gain(evidence: Evidence) -> Array:
    """Log error at the coldest minus that at the hottest, lower third of the densities [D]."""
    low = evidence.log_error[..., : third_of_loads(evidence)]
    return mean(low[:, -1] - low[:, 0], 1)


@_effect("threshold minus the highest LMC at the coldest")
def all_in_one(evidence: Evidence) -> Array:
    """Threshold minus the highest LMC of any load at the coldest temperature [D]."""
    coldest = evidence.grid("lmc")[:, -1]
    highest = np.where(np.isfinite(coldest), coldest, -np.inf).max(axis=1)
    return np.where(np.isfinite(highest), LMC_THRESHOLD - highest, np.nan)


@_effect("gain of {against} in {metric}, where {variant} is in {where}")
def variant_gain(
    evidence: Evidence, against: Evidence, where: Collection[str], metric: str
) -> Array:
    """Gain of another variant in the cells that are in some regimes without it, mean [D].

    ``metric`` is "log_error" or "dissimilarity" (theirs is lower) or "lmc" (theirs is higher).
    """
    own, other = evidence.values_of(metric), against.values_of(metric)
    gain = other - own if metric == "lmc" else own - other
    return mean(np.where(np.isin(evidence.regimes, list(where)), gain, np.nan), (1, 2))


@_effect("gain of {against} over {variant} in log error, Regime {more} minus {less}")
def variant_gain_contrast(
    evidence: Evidence, against: Evidence, more: Collection[str], less: Collection[str]
) -> Array:
    """Gain of another variant in log error, in some regimes minus that in others [D]."""
    inside, outside = (
        variant_gain(evidence, against, where, "log_error") for where in (more, less)
    )
    return inside - outside


@_effect("log error of {worse} minus {better}")
def variant_contrast(evidence: Evidence, worse: Collection[str], better: Collection[str]) -> Array:
    """Log error of some variants minus that of others, mean over all cells [D]."""
    errors = (
        mean(np.stack([evidence.variants[name].log_error for name in names]), (0, 2, 3))
        for names in (worse, better)
    )
    first, second = errors
    return first - second


@_effect("rank correlation of -LMC with the gain of heating")
def heating_by_lmc(evidence: Evidence) -> Array:
    """Rank correlation of -LMC with the gain of heating, over cells of the colder half [D].

    LMC is the mean of the other seeds; the gain is in log error, at a temperature half the grid
    hotter.
    """
    errors, lmc = evidence.log_error, evidence.grid("lmc")
    half = errors.shape[1] // 2
    gains = errors[:, half:] - errors[:, : errors.shape[1] - half]

    def effect(seed: int) -> float:
        others = mean(lmc[evidence.others(seed)], 0)[half:]
        known = np.isfinite(others) & np.isfinite(gains[seed])
        if known.sum() < 3 or np.ptp(others[known]) == 0:
            return np.nan
        return float(spearmanr(-others[known], gains[seed][known]).statistic)

    return _by_seed(evidence, effect)


@_effect("accuracy minus that of the better blind rule")
def accuracy_over_blind(evidence: Evidence) -> Array:
    """Accuracy of Algorithm 1 minus that of the blind rule better on the other seeds [D]."""
    diagram = evidence.diagram_of_nets
    accuracy = accuracy_by_seed(diagram, LMC_THRESHOLD)
    hotter = mean(heating_outcomes(diagram).truth, (1, 2))
    raised = np.array([mean(np.delete(hotter, seed), 0) for seed in range(len(hotter))]) > 0.5
    return np.asarray(accuracy - np.where(raised, hotter, 1 - hotter))


@_effect("0.1 minus the range of the accuracy over thresholds")
def accuracy_range(evidence: Evidence) -> Array:
    """Largest steady range of Algorithm 1's accuracy minus its range over thresholds [D]."""
    return STEADY_RANGE - accuracy_change(evidence.diagram_of_nets, LMC_THRESHOLD)


@_effect("log error of the best dense net minus the choice of {rule}, heavy loads")
def choice_gain(evidence: Evidence, rule: str, alpha: int) -> Array:
    """Log error of the best dense net minus that of a rule's, lower third of loads [D]."""
    low = evidence.diagram.loads[: third_of_loads(evidence)]
    return _choice_difference(evidence, alpha, ("best dense net", rule), low)


@_effect("log error of the choice of {rule} minus grid search's")
def choice_loss(evidence: Evidence, rule: str, alpha: int) -> Array:
    """Log error of a rule's net minus that of grid search's, all loads [D]."""
    return _choice_difference(evidence, alpha, (rule, "grid search"), evidence.diagram.loads)


def _choice_difference(
    evidence: Evidence, alpha: int, rules: tuple[str, str], loads: Collection[float]
) -> Array:
    worse, better = rules
    choices = _selections(evidence, alpha)
    choices = choices[choices[evidence.diagram.load].isin(list(loads))]
    errors = choices.groupby(["dense_seed", "rule"])["log_error"].mean().unstack()
    return (errors[worse] - errors[better]).to_numpy()


@functools.lru_cache(maxsize=8)
def _selections(evidence: Evidence, alpha: int) -> pd.DataFrame:
    """Choices of all rules that select a net; cached, since several parts need them."""
    return _choices(evidence, selection_rules(LMC_THRESHOLD, alpha))


def _choices(evidence: Evidence, rules: Mapping[str, Rule]) -> pd.DataFrame:
    """Choices of rules as `replay_rules` returns them, with the column ``log_error``."""
    choices = replay_rules(replays(_tables(evidence), evidence.retraining_epochs), rules)
    floor = 0.5 / evidence.test_examples
    return choices.assign(log_error=np.log(choices["test_error"].clip(lower=floor)))


def _tables(evidence: Evidence) -> Results:
    assert evidence.tables is not None, "published means have no copies to choose among"
    return evidence.tables


@_effect("log error of always the largest or no radius minus that of highest CKA")
def radius_gain(evidence: Evidence) -> Array:
    """Log error of always the largest or always no radius, minus that of highest CKA [D].

    The mean of the two; the rule sees a pair of copies and is judged on the others.
    """
    fixed = mean(evidence.log_error[:, [0, -1]], (1, 2))
    return fixed - _radius_errors(evidence)["CKA"].to_numpy()


@_effect("log error at the radius of highest CKA minus grid search's")
def radius_loss(evidence: Evidence) -> Array:
    """Log error at the radius of highest CKA minus that at grid search's, all loads [D]."""
    errors = _radius_errors(evidence)
    return (errors["CKA"] - errors["grid search"]).to_numpy()


@functools.lru_cache(maxsize=8)
def _radius_errors(evidence: Evidence) -> pd.DataFrame:
    """Log error at the radius that each rule (columns) chooses, by dense seed; cached as above."""
    choices = _choices(evidence, {"CKA": select_rho, "grid search": grid_search})
    return choices.groupby(["dense_seed", "rule"])["log_error"].mean().unstack()


@_effect("area under the ROC curve, {better} minus {worse}")
def area_contrast(evidence: Evidence, better: str, worse: str) -> Array:
    """Area under the ROC curve of one metric minus that of another [D].

    The curve is that of telling where hotter is better.
    """
    areas = _areas(evidence, None)
    return (areas[better] - areas[worse]).to_numpy()


@_effect("area under the ROC curve of {metric} after {epoch} epochs, minus one half")
def early_area(evidence: Evidence, metric: str, epoch: int) -> Array:
    """Area under the ROC curve of a metric early in retraining, minus one half [D]."""
    return _areas(evidence, epoch)[metric].to_numpy() - 0.5


def _areas(evidence: Evidence, epoch: int | None) -> pd.DataFrame:
    tables = _tables(evidence)
    seeds = sorted(tables.nets["dense_seed"].unique())
    return pd.DataFrame([areas_by_metric(tables.with_dense_seeds([s]), epoch) for s in seeds])
