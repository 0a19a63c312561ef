"""The judgement of a pruned net: what its retrained copies show, and whether that is an answer.

:func:`judge` decides on hotter, colder or stay, by the nets whose truth is known.
:func:`find_problems` names what makes the measurements meaningless, such as copies at chance: then
the answer is "cannot tell".
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from threeregime.analysis import LMC_THRESHOLD, PhaseDiagram
from threeregime.calibration import CANNOT_TELL, Calibration, Measures, direction

MIN_EXAMPLES = 40
"""With fewer examples, an error moves in steps that are too large to show a barrier of 0.05."""
CHANCE_MARGIN = 0.03
"""Share of the error at chance that counts as chance, besides two standard errors."""
MAX_SPREAD = 0.1
"""Largest difference between the training errors of copies of one net."""
MAX_LMC = 0.05
"""A larger LMC is no connection: nets between the copies err less than these do."""
ERROR_MARGIN = 0.05
"""Copies whose training error exceeds the dense net's by this are not yet retrained."""
UNTRAINED_ERROR = 0.5
"""A dense net with a larger training error may not be trained yet."""
RENUMBERED_SHARE = 0.5
"""Labels are of other numbers if new ones leave at most this share of the error."""
CONFIDENT = 0.5
"""A net whose predictions are more probable on average was trained."""
BY_HEART = "known by heart"
"""Name of the finding that a choice without test data cannot be trusted."""
MAX_MEMORY = 0.1
"""A net that errs less, by more than this, on examples than copies that did not see them may know
their labels by heart."""
LOST_SHARE = 0.05
"""Share of the examples whose classes the copies may lose before there is no answer."""
TRIED = "the other directions were tried: their checkpoints do worse"
"""Basis of an answer that no known net is needed for."""
TURNS = {"I": "hotter", "II-A": "colder", "II-B": "stay"}


@dataclass(frozen=True)
class DenseErrors:
    """Errors of a net before it is pruned.

    Attributes:
        train: training error, a fraction.
        test: test error; None without test data.
        classes: number of training examples that it puts into each class.
        confidence: mean probability of its predictions.
        renumbered: training error if its classes are renumbered as fits the labels best.
        held_out: error on the training examples that the copies are not retrained on, which the
            net itself was trained on; None if there are few.
    """

    train: float
    test: float | None
    classes: tuple[int, ...] = ()
    confidence: float = 0.0
    renumbered: float = 1.0
    held_out: float | None = None

    @property
    def error(self) -> float:
        """Test error or, without test data, training error."""
        return self.train if self.test is None else self.test

    @property
    def unseen(self) -> float:
        """Error on test data, on held-out examples or, without either, on training data."""
        if self.test is None and self.held_out is not None:
            return self.held_out
        return self.error


@dataclass(frozen=True)
class Evidence:
    """Measurements of the retrained copies of one pruned net.

    Attributes:
        lmc: linear mode connectivity (Equation 1), mean over pairs.
        cka: CKA of softmax outputs (Equation 2), mean over pairs.
        curve: training errors along the line between the copies of each pair, fractions.
        train: training error of each copy, a fraction.
        test: test error of each copy; None without test data.
        lost: classes of training examples that the dense net predicts and a copy never does.
        held_out: error of each copy on training examples that it was not retrained on; None if
            there are few.
    """

    lmc: float
    cka: float
    curve: tuple[tuple[float, ...], ...]
    train: tuple[float, ...]
    test: tuple[float, ...] | None
    lost: tuple[int, ...] = ()
    held_out: tuple[float, ...] | None = None

    @property
    def errors(self) -> tuple[float, ...]:
        """Test errors or, without test data, training errors."""
        return self.train if self.test is None else self.test

    @property
    def unseen(self) -> tuple[float, ...]:
        """Errors on test data, on held-out examples or, without either, on training data."""
        return self.held_out if self.test is None and self.held_out is not None else self.errors


@dataclass(frozen=True)
class DataFacts:
    """Facts about the training examples.

    Attributes:
        counts: number of examples of each class, one entry for each output of the net.
        stream: whether they are the first ones of a stream.
        probabilities: whether the net's outputs are probabilities.
    """

    counts: tuple[int, ...]
    stream: bool = False
    probabilities: bool = False

    @property
    def examples(self) -> int:
        """Number of examples, or of positions with a label."""
        return sum(self.counts)

    @property
    def present(self) -> int:
        """Number of classes with an example."""
        return sum(count > 0 for count in self.counts)

    @property
    def chance(self) -> float:
        """Error of always predicting the most frequent class."""
        return 1 - max(self.counts) / max(1, self.examples)

    def at_chance(self, error: float) -> bool:
        """Return whether an error is no better than chance."""
        chance = self.chance
        deviation = math.sqrt(chance * (1 - chance) / max(1, self.examples))
        return error >= chance - max(CHANCE_MARGIN * chance, 2 * deviation)


@dataclass(frozen=True)
class Finding:
    """A problem that an answer has to name.

    Attributes:
        name: a word or two.
        text: what was seen and what to do, in a sentence or two.
        blocks: whether there is no answer with it.
    """

    name: str
    text: str
    blocks: bool = True


@dataclass(frozen=True)
class Judgement:
    """Something that the evidence shows.

    Attributes:
        regime: "I", "II-A" or "II-B", by the thresholds.
        turn: "hotter", "colder", "stay" or "cannot tell".
        probabilities: of each direction; None if there is no ground for a number.
        basis: source of the probabilities, or of the direction if there are none.
        reason: why it cannot tell, and what would settle it; else empty.
    """

    regime: str
    turn: str
    probabilities: dict[str, float] | None
    basis: str
    reason: str = ""


def judge(
    evidence: Evidence,
    dense: DenseErrors,
    density: float,
    findings: Sequence[Finding],
    calibration: Calibration | None,
    tried: Collection[str] = (),
) -> Judgement:
    """Decide whether hotter or colder training is better, or that it cannot be told.

    The most probable direction is the answer if it is likely enough. Without known nets that looked
    like this one, it is the paper's rule: the direction that belongs to the regime.

    Args:
        evidence: measurements of the retrained copies.
        dense: errors of the net before pruning.
        density: fraction of the weights that is kept.
        findings: problems that were seen.
        calibration: what is known of other nets; None: nothing.
        tried: "hotter", "colder" or both, if such checkpoints were tried and are worse.
    """
    regime = regime_of(evidence.lmc, evidence.cka)
    blocking = [finding for finding in findings if finding.blocks]
    if blocking:
        return Judgement(regime, CANNOT_TELL, None, "there is no answer", blocking[0].text)
    if {"hotter", "colder"} <= set(tried):
        return Judgement(regime, "stay", None, TRIED)
    known = None
    if calibration is not None:
        known = calibration.probabilities(measures_of(evidence, dense, density))
    if calibration is None or known is None:
        basis = "no known net looked like this one, so the answer is the paper's rule"
        turn = "stay" if TURNS[regime] in tried else TURNS[regime]
        return Judgement(regime, turn, None, basis)
    known = {name: 0.0 if name in tried else share for name, share in known.items()}
    total = sum(known.values())
    if not total:
        return Judgement(regime, "stay", None, TRIED)
    known = {name: share / total for name, share in known.items()}
    turn = direction(known)
    if turn != CANNOT_TELL:
        return Judgement(regime, turn, known, calibration.words)
    ranking = sorted(known.items(), key=lambda item: -item[1])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in ranking)
    wanted = "test data, " if evidence.test is None else ""
    reason = (
        f"of known nets that looked like it, the better direction was {shares}. Ask again with "
        f"{wanted}a hotter and a colder checkpoint: the best one is then chosen"
    )
    return Judgement(regime, turn, known, calibration.words, reason)


def regime_of(lmc: float, cka: float) -> str:
    """Return the regime by the paper's thresholds of LMC and CKA."""
    if lmc < LMC_THRESHOLD:
        return "I"
    return "II-A" if cka < PhaseDiagram.from_reference().cka_threshold else "II-B"


def measures_of(evidence: Evidence, dense: DenseErrors, density: float) -> Measures:
    """Return the measurements that the direction is predicted from."""
    held_out = evidence.held_out or evidence.unseen
    return Measures(
        evidence.lmc,
        evidence.cka,
        dense.train,
        dense.unseen,
        sum(evidence.train) / len(evidence.train),
        sum(evidence.unseen) / len(evidence.unseen),
        sum(held_out) / len(held_out),
        density,
    )


def known_by_heart(dense: Mapping[Any, float], copies: Mapping[Any, float]) -> list[Any]:
    """Return the nets that know more of the held-out labels than can be learned from the others.

    Without test data a net that has learned wrong labels looks better than one that has not. What
    can be learned shows in the copies of the net that is fitted least: they were not retrained on
    the held-out examples, and their net has little memory of them.

    Args:
        dense: error of each net on the held-out examples before pruning, a fraction.
        copies: mean error of its retrained copies on them; NaN if they diverged.
    """
    finite = [name for name, error in copies.items() if math.isfinite(error)]
    if not finite:
        return []
    learned = copies[max(finite, key=lambda name: dense[name])]
    return [name for name in finite if dense[name] < learned - MAX_MEMORY]


def find_known_by_heart(
    dense: Mapping[str, DenseErrors], evidence: Mapping[str, Evidence], chosen: str
) -> list[Finding]:
    """Return whether candidates know the labels by heart; if the chosen one does, all do."""
    copies = {name: sum(seen.unseen) / len(seen.unseen) for name, seen in evidence.items()}
    known = known_by_heart({name: dense[name].unseen for name in copies}, copies)
    if not known:
        return []
    verb = "errs" if len(known) == 1 else "err"
    text = (
        f"{', '.join(known)} {verb} less on held-out training examples, which the dense nets were "
        "trained on, than can be learned from the others: wrong labels may be known by heart. Give "
        "test data to be sure"
    )
    return [Finding(BY_HEART, text, blocks=chosen in known)]


def find_problems(evidence: Evidence, dense: DenseErrors, data: DataFacts) -> list[Finding]:
    """Return what makes an answer meaningless or doubtful, the most basic problem first."""
    if data.examples < MIN_EXAMPLES:
        step = f"{100 / max(1, data.examples):.3g}"
        text = (
            f"an error on {data.examples} examples moves in steps of {step} %, too large to show a "
            f"barrier: give {MIN_EXAMPLES} examples or more"
        )
        return [Finding("few examples", text)]
    found = find_dense_problems(dense, data) or _copy_problems(evidence, dense, data)
    return sorted([*_data_problems(data), *found], key=lambda finding: not finding.blocks)


def _data_problems(data: DataFacts) -> list[Finding]:
    found = []
    outputs = len(data.counts)
    if data.present < outputs:
        seen = f"the data hold {data.present} classes, the net has {outputs} outputs"
        if data.stream:
            text = f"{seen}: these are the first examples of a stream; shuffle it"
            found.append(Finding("stream in order", text, blocks=2 * data.present <= outputs))
        elif data.present <= data.examples / 2:
            text = f"{seen}: make sure that labels are numbered as in the net's training"
            found.append(Finding("missing classes", text, blocks=False))
    if data.probabilities:
        text = (
            "the net's outputs are probabilities already: their logarithm was used for the loss; "
            "a net should give logits, without its softmax"
        )
        found.append(Finding("probabilities", text, blocks=False))
    return found


def find_dense_problems(dense: DenseErrors, data: DataFacts) -> list[Finding]:
    """Return what is wrong with the net before it is pruned, or with its labels."""
    error = f"{100 * dense.train:.1f} %"
    if dense.train > max(ERROR_MARGIN, data.chance / 2) and (
        dense.renumbered < RENUMBERED_SHARE * dense.train
    ):
        text = (
            f"the dense net errs on {error} of its training data, but on "
            f"{100 * dense.renumbered:.1f} % if its classes are renumbered: the labels are not "
            "those that it was trained with, give these"
        )
        return [Finding("other labels", text)]
    if not data.at_chance(dense.train):
        return []
    chance = f"the dense net errs on {error} of its training data, no better than chance"
    if dense.confidence > max(CONFIDENT, 2 / len(data.counts)):
        text = (
            f"{chance}, though it is sure of what it predicts: labels or inputs (their "
            "normalization, channels) are not those that it was trained with"
        )
    else:
        text = f"{chance}: it is not trained, or its weights were not loaded; train it first"
    return [Finding("dense net at chance", text)]


def _copy_problems(evidence: Evidence, dense: DenseErrors, data: DataFacts) -> list[Finding]:
    errors = evidence.train
    best, worst = min(errors), max(errors)
    shown = ", ".join(f"{100 * error:.1f}" for error in errors)
    found = []
    if data.at_chance(best):
        text = (
            f"the retrained copies err on {shown} % of the training data, no better than chance: "
            "retraining failed; give a lower lr, more epochs or a higher density"
        )
        found.append(Finding("copies at chance", text))
    elif worst - best > MAX_SPREAD:
        text = (
            f"one copy errs on {100 * worst:.1f} % and another on {100 * best:.1f} % of the "
            "training data, so LMC and CKA of the two mean nothing: retraining was unstable; give "
            "a lower lr or more epochs"
        )
        found.append(Finding("collapsed copy", text))
    elif evidence.lmc > MAX_LMC:
        text = (
            f"nets between the copies err less than the copies (LMC {evidence.lmc:+.3f}), which is "
            "no connection: retraining has not settled; give more epochs or a lower lr"
        )
        found.append(Finding("not settled", text))
    if evidence.lost and not found:
        some = ", ".join(map(str, evidence.lost[:5])) + (" .." if len(evidence.lost) > 5 else "")
        text = (
            f"a copy never predicts the class {some}, which the dense net does: pruning lost it, "
            "and the total error hides it; give more epochs or a higher density"
        )
        share = sum(data.counts[label] for label in evidence.lost) / max(1, data.examples)
        found.append(Finding("lost class", text, blocks=share >= LOST_SHARE))
    if dense.train > UNTRAINED_ERROR and worst < dense.train - ERROR_MARGIN and not found:
        text = (
            "the dense net errs on more than half of its training data, and its pruned copies on "
            "fewer: it has hardly been trained. Train it first, and ask again"
        )
        found.append(Finding("untrained", text))
    if not found and evidence.lmc >= LMC_THRESHOLD and best >= dense.train + ERROR_MARGIN:
        text = (
            "the copies still err far more than the dense net, so they may be alike only for want "
            "of training; give more epochs or a larger lr to be sure"
        )
        found.append(Finding("short retraining", text, blocks=False))
    return found
