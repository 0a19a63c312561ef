"""Effects of the registered parts: one number per dense seed, positive if the claim is true.

``registered.toml`` says what each effect is. Errors are compared as natural logarithms. The regimes
of a seed's cells are those of the means over the other seeds, and a temperature is chosen on the
other seeds: no seed judges a choice that it had a part in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.algorithms import accuracy_by_seed, heating_outcomes
from threeregime.analysis import (
    LMC_THRESHOLD,
    Array,
    PhaseDiagram,
    classify,
    contrast,
    held_out_error,
    mean,
    otsu,
    spearman,
)
from threeregime.claims.diagram_statements import crossing_lines, third_of_loads
from threeregime.claims.figure_statements import STEADY_RANGE, accuracy_change, selections
from threeregime.claims.registration import Part, Rules
from threeregime.results import Results


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables of a study, as the effects read them.

    Attributes:
        tables: of one variant.
        diagram: phase diagram of the tables.
        rules: constants of all verdicts.
        chance: error of guessing.
        test_images: number of test images.
        retraining_epochs: of a whole retraining.
    """

    tables: Results
    diagram: PhaseDiagram
    rules: Rules
    chance: float
    test_images: int
    retraining_epochs: int

    @functools.cached_property
    def no_nets(self) -> NDArray[np.bool_]:
        """Cells [T, L] that hold no nets: their mean training error is close to chance."""
        axes = [self.diagram.temperature, self.diagram.load]
        errors = self.tables.nets.groupby(axes)["train_error"].mean()
        grid = errors.reindex(pd.MultiIndex.from_product(self._axes)).to_numpy()
        shape = (len(self.diagram.temperatures), len(self.diagram.loads))
        return np.asarray(grid.reshape(shape) > self.rules.no_net * self.chance)

    @property
    def _axes(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.diagram.temperatures, self.diagram.loads

    def grid(self, metric: str) -> Array:
        """Return a metric of each dense seed [D, T, L], hot to cold; NaN without nets."""
        return np.where(self.no_nets, np.nan, self.diagram.by_seed[metric])

    @functools.cached_property
    def diagram_of_nets(self) -> PhaseDiagram:
        """The diagram without the cells that hold no nets."""
        by_seed = {metric: self.grid(metric) for metric in self.diagram.by_seed}
        return replace(self.diagram, by_seed=by_seed)

    @functools.cached_property
    def log_error(self) -> Array:
        """Logarithms of test errors [D, T, L]; no error is below half an image."""
        return np.log(np.maximum(self.grid("test_error"), 0.5 / self.test_images))

    @functools.cached_property
    def regimes(self) -> NDArray[Any]:
        """Regimes of the cells [D, T, L], for each dense seed by the means of the others."""
        lmc, cka = self.grid("lmc"), self.grid("cka_softmax")
        labels = []
        for seed in range(len(lmc)):
            others = (mean(np.delete(values, seed, axis=0), 0) for values in (lmc, cka))
            mean_lmc, mean_cka = others
            threshold = otsu(mean_cka[mean_lmc >= LMC_THRESHOLD])
            labels.append(classify(mean_lmc, mean_cka, LMC_THRESHOLD, threshold))
        return np.stack(labels)

    def by_seed(self, effect: Callable[[int], float]) -> Array:
        """Return an effect of each dense seed, by its index [D]."""
        return np.array([effect(seed) for seed in range(len(self.log_error))])


def _contrast(
    evidence: Evidence, values: Array, worse: Collection[str], better: Collection[str]
) -> Array:
    """Values in the worse minus those in the better regime, mean over loads that have both [D]."""
    regimes = evidence.regimes

    def effect(seed: int) -> float:
        cells = (np.isin(regimes[seed], list(names)) for names in (worse, better))
        return float(contrast(*cells)(values[seed]))

    return evidence.by_seed(effect)


def regime_contrast(evidence: Evidence, worse: Collection[str], better: Collection[str]) -> Array:
    """Log error of the worse regime minus that of the better one at equal load [D]."""
    return _contrast(evidence, evidence.log_error, worse, better)


def dissimilarity_contrast(
    evidence: Evidence, worse: Collection[str], better: Collection[str]
) -> Array:
    """The same of log(1 - CKA) [D]."""
    different = np.log(np.maximum(1 - evidence.grid("cka_softmax"), 1e-6))
    return _contrast(evidence, different, worse, better)


def lmc_by_load(evidence: Evidence) -> Array:
    """Rank correlation of LMC with the load, mean over temperatures [D]."""
    lmc = evidence.grid("lmc")

    def correlation(row: Array) -> float:
        return spearman(row) if np.isfinite(row).sum() >= 3 else np.nan

    return evidence.by_seed(
        lambda seed: float(mean(np.array([correlation(row) for row in lmc[seed]]), 0))
    )


def lmc_at_high_load(evidence: Evidence) -> Array:
    """Mean LMC of the upper third of the densities, minus the threshold [D]."""
    high = evidence.grid("lmc")[..., -third_of_loads(evidence.diagram) :]
    return mean(high, (1, 2)) - LMC_THRESHOLD


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
        for axis, lines in crossing_lines(regimes[seed]).items():
            if len(lines):
                sharp, smooth = (of_lines(values[seed], axis, lines) for values in (lmc, cka))
                differences.append(sharp - smooth)
        return float(mean(np.array(differences), 0)) if differences else np.nan

    return evidence.by_seed(effect)


def heating_gain(
    evidence: Evidence, where: Collection[str], window: tuple[float, float] | None = None
) -> Array:
    """Log error at the coldest temperature minus that in the window, mean over loads [D].

    The loads are those whose coldest cell is in one of the regimes; of the temperatures in the
    window the one that is best on the other seeds is taken. ``window`` is in units of the
    temperature; None: that of the rules, as shares of the whole dense run.
    """
    temperatures, total = np.array(evidence.diagram.temperatures), evidence.diagram.total
    low, high = window or (total * share for share in evidence.rules.window)
    inside = np.flatnonzero((temperatures >= low) & (temperatures <= high))
    errors = evidence.log_error
    gains = errors[:, -1] - held_out_error(errors[:, inside])
    return mean(np.where(np.isin(evidence.regimes[:, -1], list(where)), gains, np.nan), 1)


def cooling_gain(evidence: Evidence) -> Array:
    """Log error at the hottest minus that at the coldest, upper third of the densities [D]."""
    high = evidence.log_error[..., -third_of_loads(evidence.diagram) :]
    return mean(high[:, 0] - high[:, -1], 1)


def accuracy_over_blind(evidence: Evidence) -> Array:
    """Accuracy of Algorithm 1 minus that of the blind rule better on the other seeds [D]."""
    diagram = evidence.diagram_of_nets
    accuracy = accuracy_by_seed(diagram, LMC_THRESHOLD)
    hotter = mean(heating_outcomes(diagram).truth, (1, 2))
    raised = np.array([mean(np.delete(hotter, seed), 0) for seed in range(len(hotter))]) > 0.5
    return np.asarray(accuracy - np.where(raised, hotter, 1 - hotter))


def accuracy_range(evidence: Evidence) -> Array:
    """Largest steady range of Algorithm 1's accuracy minus its range over thresholds [D]."""
    return STEADY_RANGE - accuracy_change(evidence.diagram_of_nets)


def choice_gain(evidence: Evidence, rule: str, alpha: int) -> Array:
    """Log error of the best dense net minus that of a rule's, lower third of loads [D]."""
    low = evidence.diagram.loads[: third_of_loads(evidence.diagram)]
    return _choice_difference(evidence, alpha, ("best dense net", rule), low)


def choice_loss(evidence: Evidence, rule: str, alpha: int) -> Array:
    """Log error of a rule's net minus that of grid search's, all loads [D]."""
    return _choice_difference(evidence, alpha, (rule, "grid search"), evidence.diagram.loads)


def _choice_difference(
    evidence: Evidence, alpha: int, rules: tuple[str, str], loads: Collection[float]
) -> Array:
    choices = selections(evidence.tables, evidence.retraining_epochs, alpha, LMC_THRESHOLD)
    choices = choices[choices[evidence.diagram.load].isin(list(loads))]
    floor = 0.5 / evidence.test_images
    choices = choices.assign(log_error=np.log(choices["test_error"].clip(lower=floor)))
    errors = choices.pivot_table("log_error", "dense_seed", "rule")
    worse, better = rules
    return (errors[worse] - errors[better]).to_numpy()


_FUNCTIONS: dict[str, Callable[..., Array]] = {
    function.__name__: function
    for function in (
        regime_contrast,
        lmc_by_load,
        lmc_at_high_load,
        dissimilarity_contrast,
        sharpness,
        heating_gain,
        cooling_gain,
        accuracy_over_blind,
        accuracy_range,
        choice_gain,
        choice_loss,
    )
}


def part_effects(part: Part, evidence: Evidence) -> Array:
    """Return the effects of a registered part by dense seed [D]; NaN where there is none."""
    effects = _FUNCTIONS[part.effect](evidence, **dict(part.options))
    return evidence.rules.margin - effects if part.smaller_than_margin else effects
