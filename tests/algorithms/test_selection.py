"""The paper's rules on candidates with known outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from threeregime.algorithms import selection
from threeregime.algorithms.selection import Measurement
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue


@dataclass
class KnownTrials:
    """Trials with given outcomes, which count the epochs of retraining."""

    dense: dict[float, float]
    outcomes: dict[float, Measurement]
    candidates: list[float] = field(default_factory=list)
    retraining_epochs: int = 160
    copies: int = 2
    spent: int = 0

    def __post_init__(self) -> None:
        self.candidates = list(self.dense)

    def dense_error(self, candidate: float) -> float:
        return self.dense[candidate]

    def retrain(self, candidate: float, epochs: int) -> Measurement:
        self.spent += self.copies * epochs
        return self.outcomes[candidate]


def make_trials(lmc_of_best: float) -> KnownTrials:
    """The longest trained is the best dense net; 20 has the lowest error, 40 the highest CKA."""
    return KnownTrials(
        {20: 0.3, 40: 0.2, 160: 0.1},
        {20: Measurement(0.11, -0.01, 0.90), 40: Measurement(0.12, 0.0, 0.95),
         160: Measurement(0.2, lmc_of_best, 0.8)},
    )  # fmt: skip


def test_algorithm_1_raises_the_temperature_only_in_regime_i() -> None:
    for lmc, hotter in ((-0.2, True), (-0.051, True), (-0.05, False), (0.0, False)):
        trials = make_trials(lmc)
        decision = selection.tune(trials, 160)
        assert (decision.hotter, decision.chosen, decision.epochs) == (hotter, 160, trials.spent)
        assert decision.evidence[160].lmc == lmc
    assert selection.tune(make_trials(-0.1), 160, threshold=-0.15, epochs=2).hotter is False


@pytest.mark.parametrize(
    ("rule", "chosen"), [(selection.select_by_error, 20), (selection.select_by_similarity, 40)]
)
def test_algorithms_2_retrain_all_candidates_only_in_regime_i(
    rule: Callable[[KnownTrials], selection.Decision], chosen: float
) -> None:
    poor, well = make_trials(-0.3), make_trials(-0.01)
    decision = rule(poor)
    assert decision.chosen == chosen
    assert decision.epochs == poor.spent == 3 * 2 * 2
    decision = rule(well)
    assert (decision.chosen, decision.epochs) == (160, 2 * 2)
    assert well.spent == 4
    assert decision.grid_epochs == 3 * 2 * 160 == selection.grid_search(well).epochs
    assert selection.grid_search(well).chosen == 20
    assert selection.select_best_dense(well).epochs == 0


def test_sams_radius_is_that_of_highest_cka() -> None:
    assert selection.select_rho(make_trials(0.0)).chosen == 40


def test_diverged_candidates_are_ignored_and_all_diverged_is_an_error() -> None:
    trials = make_trials(-0.3)
    trials.dense[160] = np.nan
    assert selection.select_best_dense(trials).chosen == 40
    trials.outcomes[20] = Measurement(np.nan, np.nan, np.nan)
    assert selection.grid_search(trials).chosen == 40
    trials.dense = dict.fromkeys(trials.dense, np.nan)
    with pytest.raises(ThreeRegimeError, match="did all of them diverge"):
        selection.select_best_dense(trials)


def test_a_diverged_baseline_is_not_in_regime_ii() -> None:
    """If the copies of the best dense net diverge, LMC is NaN: that net must not be kept."""
    trials = make_trials(np.nan)
    trials.outcomes[160] = Measurement(np.nan, np.nan, np.nan)
    assert selection.select_by_error(trials).chosen == 20
    assert selection.tune(trials, 160).hotter is True


def test_experiments_of_figures_4_and_16_measure_after_alpha_epochs() -> None:
    """Figures 4 and 16 need what was measured after alpha epochs, at every scale."""
    for name in ("diagnostics", "figure_07"):
        for scale in catalogue.list_scales(name):
            early = catalogue.load_experiment(name, scale).protocol.metrics.early
            assert selection.EARLY_EPOCHS in early
