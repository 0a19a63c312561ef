"""The paper's rules: which way to turn the temperature, which net to prune, which radius for SAM.

Algorithms 1, 2 and 2.1 and the rule on SAM (Sections 4.1 to 4.3, Appendix C.3) as functions over
`Trials`: anything that can prune a candidate to the wanted load, retrain copies of it, and measure
these. The same rule so runs on live nets and replays on finished tables
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

Candidate = TypeVar("Candidate", bound=Hashable)
"""What is chosen from: temperatures, or names of checkpoints."""


@dataclass(frozen=True)
class Measurement:
    """What two retrained copies of a pruned net show.

    Attributes:
        test_error: mean of the copies', a fraction; NaN where there are no test data.
        lmc: their linear mode connectivity (Equation 1).
        cka: similarity of their outputs (Equation 2).
    """

    test_error: float
    lmc: float
    cka: float


class Trials(Protocol[Candidate]):
    """Candidates, e.g. temperatures, that can be pruned to the load at hand and retrained."""

    @property
    def candidates(self) -> Sequence[Candidate]:
        """What there is to choose from."""
        ...

    @property
    def retraining_epochs(self) -> int:
        """How long a whole retraining is."""
        ...

    @property
    def copies(self) -> int:
        """How many copies of a candidate are retrained."""
        ...

    def dense_error(self, candidate: Candidate) -> float:
        """Test error of a dense net, a fraction; NaN where it diverged."""
        ...

    def retrain(self, candidate: Candidate, epochs: int) -> Measurement:
        """Prune a candidate, retrain its copies for so many epochs and measure them."""
        ...


@dataclass(frozen=True)
class Decision(Generic[Candidate]):
    """What a rule chose, why, and what it cost.

    Attributes:
        rule: its name.
        chosen: the candidate; of Algorithm 1 the one it was asked about.
        hotter: whether the temperature should be raised; None where the rule does not say.
        evidence: what was measured of each candidate that was retrained.
        threshold: of LMC.
        epochs: training epochs of all copies that were retrained.
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
    """Algorithm 1: raise the temperature where the candidate, once pruned, is in Regime I.

    Args:
        trials: the load at hand.
        candidate: what was trained at the temperature at hand.
        threshold: of LMC, below which a net is in Regime I.
        epochs: of retraining; None: all of them.
    """
    epochs = trials.retraining_epochs if epochs is None else epochs
    measured = trials.retrain(candidate, epochs)
    hotter = _poor(measured, threshold)
    evidence = {candidate: measured}
    return _decided(trials, "Algorithm 1", candidate, evidence, threshold, epochs, hotter)


def select_by_error(
    trials: Trials[Candidate], threshold: float = LMC_THRESHOLD, epochs: int = EARLY_EPOCHS
) -> Decision[Candidate]:
    """Algorithm 2: prune the best dense net, unless LMC puts it in Regime I.

    There the candidate of lowest test error after a few epochs of retraining is chosen.

    Args:
        trials: the candidates at the load at hand.
        threshold: of LMC.
        epochs: of retraining (alpha in the paper).

    Raises:
        ThreeRegimeError: no candidate has an error.
    """
    return _select(trials, "Algorithm 2", lambda found: -found.test_error, threshold, epochs)


def select_by_similarity(
    trials: Trials[Candidate], threshold: float = LMC_THRESHOLD, epochs: int = EARLY_EPOCHS
) -> Decision[Candidate]:
    """Algorithm 2.1: as `select_by_error`, by the highest CKA, for which no test data are needed.

    The dense nets' errors may then be those on other data held out.
    """
    return _select(trials, "Algorithm 2.1", lambda found: found.cka, threshold, epochs)


def select_rho(trials: Trials[Candidate], epochs: int | None = None) -> Decision[Candidate]:
    """The rule on SAM (Section 4.3): the radius whose pruned nets have the highest CKA.

    Args:
        trials: candidates are radii, at the load at hand.
        epochs: of retraining; None: all of them.
    """
    epochs = trials.retraining_epochs if epochs is None else epochs
    evidence = {c: trials.retrain(c, epochs) for c in trials.candidates}
    chosen = _highest({c: found.cka for c, found in evidence.items()})
    return _decided(trials, "highest CKA", chosen, evidence, np.nan, epochs)


def select_best_dense(trials: Trials[Candidate]) -> Decision[Candidate]:
    """What is usually done: prune the dense net of lowest test error."""
    chosen = _highest({c: -trials.dense_error(c) for c in trials.candidates})
    return _decided(trials, "best dense net", chosen, {}, np.nan, 0)


def grid_search(trials: Trials[Candidate]) -> Decision[Candidate]:
    """Prune and retrain every candidate to the end, and take the one of lowest test error."""
    epochs = trials.retraining_epochs
    evidence = {c: trials.retrain(c, epochs) for c in trials.candidates}
    chosen = _highest({c: -found.test_error for c, found in evidence.items()})
    return _decided(trials, "grid search", chosen, evidence, np.nan, epochs)


def _select(
    trials: Trials[Candidate],
    rule: str,
    score: Callable[[Measurement], float],
    threshold: float,
    epochs: int,
) -> Decision[Candidate]:
    """The frame of Algorithms 2 and 2.1, which differ in what is best after a few epochs."""
    chosen = select_best_dense(trials).chosen
    evidence = {chosen: trials.retrain(chosen, epochs)}
    if _poor(evidence[chosen], threshold):
        evidence |= {c: trials.retrain(c, epochs) for c in trials.candidates if c != chosen}
        chosen = _highest({c: score(found) for c, found in evidence.items()})
    return _decided(trials, rule, chosen, evidence, threshold, epochs)


def _poor(measured: Measurement, threshold: float) -> bool:
    """Whether a net is in Regime I. Copies that diverged have no LMC, and are not connected."""
    return not measured.lmc >= threshold


def _highest(scores: dict[Candidate, float]) -> Candidate:
    """The candidate of the highest score; of equals the first."""
    known = {c: score for c, score in scores.items() if np.isfinite(score)}
    if not known:
        raise ThreeRegimeError("no candidate has a finite error: did all of them diverge?")
    return max(known, key=lambda c: known[c])


def _decided(
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
