"""The paper's rules: when to change the temperature, which net to prune, which radius for SAM.

Algorithms 1, 2 and 2.1 and the rule for SAM (Sections 4.1 to 4.3, Appendix C.3) as functions of
`Trials`: anything that can prune a candidate to the load in question, retrain copies of it and
measure them. The same rules run on live nets and on result tables
(`threeregime.algorithms.replay`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from threeregime.analysis import LMC_THRESHOLD
from threeregime.errors import ThreeRegimeError

EARLY_EPOCHS = 2  # alpha, Section 4.2


class NoCandidate(ThreeRegimeError):
    """A rule has nothing to choose among, since all candidates diverged."""


Candidate = TypeVar("Candidate", bound=Hashable)
"""A candidate: a temperature, or the name of a checkpoint."""


@dataclass(frozen=True)
class Measurement:
    """Measurements of two retrained copies of a pruned net.

    Attributes:
        test_error: mean over the copies, a fraction; NaN without test data.
        lmc: their linear mode connectivity (Equation 1).
        cka: similarity of their outputs (Equation 2).
    """

    test_error: float
    lmc: float
    cka: float


class Trials(Protocol[Candidate]):
    """Candidates, e.g. temperatures, that can be pruned to one load and retrained."""

    @property
    def candidates(self) -> Sequence[Candidate]:
        """The candidates."""

    @property
    def retraining_epochs(self) -> int:
        """Length of a whole retraining."""

    @property
    def copies(self) -> int:
        """Number of retrained copies of a candidate."""

    def dense_error(self, candidate: Candidate) -> float:
        """Test error of a dense net, a fraction; NaN if it diverged."""

    def retrain(self, candidate: Candidate, epochs: int) -> Measurement:
        """Prune a candidate, retrain its copies for a number of epochs and measure them."""


@dataclass(frozen=True)
class Decision(Generic[Candidate]):
    """Decision of a rule, with its evidence and cost.

    Attributes:
        rule: name of the rule.
        chosen: the candidate; for Algorithm 1 the given one.
        hotter: whether to raise the temperature; None for the other rules.
        evidence: measurements of the candidates that were retrained.
        threshold: of LMC.
        epochs: training epochs of all retrained copies.
        grid_epochs: those of grid search, which retrains copies of every candidate to the end.
    """

    rule: str
    chosen: Candidate
    hotter: bool | None
    evidence: dict[Candidate, Measurement]
    threshold: float
    epochs: int
    grid_epochs: int


def tune(
    trials: Trials[Candidate],
    candidate: Candidate,
    threshold: float = LMC_THRESHOLD,
    epochs: int | None = None,
) -> Decision[Candidate]:
    """Algorithm 1: raise the temperature if the pruned candidate is in Regime I.

    Args:
        trials: the candidates at one load.
        candidate: the net trained at the current temperature.
        threshold: of LMC; a net below it is in Regime I.
        epochs: of retraining; None: all of them.
    """
    epochs = trials.retraining_epochs if epochs is None else epochs
    evidence = {candidate: trials.retrain(candidate, epochs)}
    hotter = _in_regime_one(evidence[candidate], threshold)
    return _decision(trials, "Algorithm 1", candidate, evidence, threshold, epochs, hotter)


def select_by_error(
    trials: Trials[Candidate], threshold: float = LMC_THRESHOLD, epochs: int = EARLY_EPOCHS
) -> Decision[Candidate]:
    """Algorithm 2: prune the best dense net, unless LMC puts it in Regime I.

    In Regime I the candidate of lowest test error after a few epochs of retraining is chosen.

    ``epochs`` is alpha in the paper. Raises NoCandidate if no candidate has a finite error.
    """
    return _select(trials, "Algorithm 2", lambda m: -m.test_error, threshold, epochs)


def select_by_similarity(
    trials: Trials[Candidate], threshold: float = LMC_THRESHOLD, epochs: int = EARLY_EPOCHS
) -> Decision[Candidate]:
    """Algorithm 2.1: as `select_by_error`, but by the highest CKA, which needs no test data.

    The errors of the dense nets may be those on other held-out data.
    """
    return _select(trials, "Algorithm 2.1", lambda m: m.cka, threshold, epochs)


def select_rho(trials: Trials[Candidate], epochs: int | None = None) -> Decision[Candidate]:
    """The rule for SAM (Section 4.3): the radius whose pruned nets have the highest CKA.

    The candidates are radii; ``epochs`` of retraining, None: all of them.
    """
    epochs = trials.retraining_epochs if epochs is None else epochs
    evidence = {c: trials.retrain(c, epochs) for c in trials.candidates}
    chosen = _highest({c: m.cka for c, m in evidence.items()})
    return _decision(trials, "highest CKA", chosen, evidence, np.nan, epochs)


def select_best_dense(trials: Trials[Candidate]) -> Decision[Candidate]:
    """The usual choice: prune the dense net of lowest test error."""
    chosen = _highest({c: -trials.dense_error(c) for c in trials.candidates})
    return _decision(trials, "best dense net", chosen, {}, np.nan, 0)


def grid_search(trials: Trials[Candidate], epochs: int | None = None) -> Decision[Candidate]:
    """Grid search: retrain every pruned candidate, choose the lowest test error.

    ``epochs`` of retraining, None: all of them.
    """
    epochs = trials.retraining_epochs if epochs is None else epochs
    evidence = {c: trials.retrain(c, epochs) for c in trials.candidates}
    chosen = _highest({c: -m.test_error for c, m in evidence.items()})
    return _decision(trials, "grid search", chosen, evidence, np.nan, epochs)


def _select(
    trials: Trials[Candidate],
    rule: str,
    score: Callable[[Measurement], float],
    threshold: float,
    epochs: int,
) -> Decision[Candidate]:
    """Algorithms 2 and 2.1, which differ in the score after a few epochs."""
    chosen = select_best_dense(trials).chosen
    evidence = {chosen: trials.retrain(chosen, epochs)}
    if _in_regime_one(evidence[chosen], threshold):
        evidence |= {c: trials.retrain(c, epochs) for c in trials.candidates if c != chosen}
        chosen = _highest({c: score(m) for c, m in evidence.items()})
    return _decision(trials, rule, chosen, evidence, threshold, epochs)


def _in_regime_one(measurement: Measurement, threshold: float) -> bool:
    """Return True in Regime I; LMC is NaN if copies diverged, which are not connected."""
    return not measurement.lmc >= threshold


def _highest(scores: dict[Candidate, float]) -> Candidate:
    """The candidate of the highest score; the first of equal ones."""
    known = {c: score for c, score in scores.items() if np.isfinite(score)}
    if not known:
        raise NoCandidate("no candidate has a finite error: did all of them diverge?")
    return max(known, key=lambda c: known[c])


def _decision(
    trials: Trials[Candidate],
    rule: str,
    chosen: Candidate,
    evidence: dict[Candidate, Measurement],
    threshold: float,
    epochs: int,
    hotter: bool | None = None,
) -> Decision[Candidate]:
    spent = len(evidence) * trials.copies * epochs
    whole = len(trials.candidates) * trials.copies * trials.retraining_epochs
    return Decision(rule, chosen, hotter, evidence, threshold, spent, whole)
