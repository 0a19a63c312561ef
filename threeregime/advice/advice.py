"""The answer of `advise`: the regime of a pruned net as text, as JSON, or as a figure."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threeregime.advice.candidates import DenseErrors, Evidence
from threeregime.analysis import LMC_THRESHOLD
from threeregime.errors import ThreeRegimeError

MIN_PROBABILITY = 0.6
"""A regime that is less probable leaves the answer open."""
ERROR_MARGIN = 0.05
"""Copies whose training error exceeds the dense net's by this are not yet retrained."""
UNTRAINED_ERROR = 0.5
"""A dense net with a larger training error is not yet trained."""
TURNS = {"I": "hotter", "II-A": "colder", "II-B": "stay"}
MEANINGS = {
    "I": "the retrained copies are poorly connected: between them lies a barrier of high error",
    "II-A": "the retrained copies are well connected, but they answer differently",
    "II-B": "the retrained copies are well connected, and they answer alike",
}
RECOMMENDATIONS = {
    "hotter": "Train hotter before you prune: stop the dense run earlier (half of the epochs is a "
    "start), or use smaller batches, or SAM with a larger rho.",
    "colder": "Train colder before you prune: train the dense net for longer, or with larger "
    "batches, or with SAM of a smaller rho.",
    "stay": "Stay: prune the net as it is. Neither hotter nor colder training promises much.",
}


@dataclass(frozen=True)
class Cost:
    """Epochs and steps of all copies, seconds in total, and the device."""

    epochs: int
    steps: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Advice:
    """The regime of a pruned net, and how to change the temperature; ``print`` shows it as text.

    Attributes:
        regime: "I", "II-A" or "II-B", of the chosen net.
        probabilities: probability of each regime; None if no known nets have similar LMC and CKA.
        basis: source of the probabilities, or of the regime if there are none.
        chosen: name of the net to prune.
        rule: name of the rule that chose it among several; empty for a single net.
        density: fraction of the weights that is kept.
        evidence: measurements of the retrained copies by name of the net. If LMC of the best dense
            net is good enough, the others are not retrained.
        dense: errors of the dense nets, by name.
        retraining: recipe of the retraining.
        pruned: number of prunable weights and layers, and the name of the unpruned layer.
        examples: number of examples used and available in each split.
        cost: time and steps.
    """

    regime: str
    probabilities: dict[str, float] | None
    basis: str
    chosen: str
    rule: str
    density: float
    evidence: dict[str, Evidence]
    dense: dict[str, DenseErrors]
    retraining: dict[str, Any]
    pruned: dict[str, Any]
    examples: dict[str, Any]
    cost: Cost

    @property
    def turn(self) -> str:
        """The change of the temperature before pruning: "hotter", "colder" or "stay"."""
        return TURNS[self.regime]

    @property
    def open(self) -> bool:
        """True if the regime is uncertain: less probable than `MIN_PROBABILITY`."""
        return self.probabilities is not None and self.probabilities[self.regime] < MIN_PROBABILITY

    def __str__(self) -> str:
        first = [*self._choice(), *self._verdict()]
        return "\n".join([*first, "", *self._measurements(), "", *self._procedure()])

    def _choice(self) -> list[str]:
        """Return which of several nets to prune, and why."""
        if not self.rule:
            return []
        split = "test" if self.dense[self.chosen].test is not None else "training"
        lines = [f"Prune {self.chosen} ({self.rule})."]
        if split == "training":
            lines.append("There are no test data: dense nets are compared by their training error.")
        width = max(len(name) for name in self.dense)
        for name, dense in self.dense.items():
            line = f"  {name:{width}}  dense {split} error {_percent(dense.error)}"
            evidence = self.evidence.get(name)
            if evidence is None:
                line += "; not retrained"
            else:
                line += f"; pruned LMC {evidence.lmc:+.3f}, CKA {evidence.cka:.3f}"
                line += f", {split} error {_percents(evidence.errors)}"
            lines.append(line)
        return [*lines, ""]

    def _verdict(self) -> list[str]:
        shares, recommendation = self.probabilities, RECOMMENDATIONS[self.turn]
        if shares is None or not self.open:
            probability = "" if shares is None else f", probability {shares[self.regime]:.0%}"
            first = f"Regime {self.regime}{probability}: {MEANINGS[self.regime]}."
            return [first, recommendation, *self._caution()]
        next_step = (
            "Ask again with more copies (copies=4) or a longer retraining before you act on it."
        )
        ranking = sorted(shares.items(), key=lambda item: -item[1])
        likeliest, share = ranking[0]
        if likeliest != self.regime:
            return [
                f"Open: LMC and CKA put it into Regime {self.regime} "
                f"({_turn_phrase(self.turn)}), but of nets which looked like it most ended in "
                f"Regime {likeliest} ({share:.0%}; {_turn_phrase(TURNS[likeliest])}).",
                next_step,
            ]
        all_shares = ", ".join(f"{name} {share:.0%}" for name, share in ranking)
        return [
            f"Open ({all_shares}), if anything Regime {self.regime}: {MEANINGS[self.regime]}.",
            f"If so: {recommendation[0].lower()}{recommendation[1:]}",
            next_step,
        ]

    def _caution(self) -> list[str]:
        """Return a warning if the dense net or the copies are not trained enough."""
        errors, dense = self.evidence[self.chosen].train, self.dense[self.chosen].train
        if dense > UNTRAINED_ERROR and max(errors) < dense - ERROR_MARGIN:
            return [
                "Caution: the dense net errs on more than half of its training data, and its "
                "pruned copies on fewer: it has hardly been trained. Train it first, and ask again."
            ]
        if self.regime == "I" or min(errors) < dense + ERROR_MARGIN:
            return []
        return [
            "Caution: the copies still err far more than the dense net, so they may be alike only "
            "for want of training; give more epochs or a larger lr to be sure."
        ]

    def _measurements(self) -> list[str]:
        evidence, dense = self.evidence[self.chosen], self.dense[self.chosen]
        curve = [sum(points) / len(points) for points in zip(*evidence.curve, strict=True)]
        side = "at or above" if evidence.lmc >= LMC_THRESHOLD else "below"
        lines = [
            f"LMC {evidence.lmc:+.3f} ({side} {LMC_THRESHOLD:g}), CKA {evidence.cka:.3f}.",
            "Training error on the line from one copy to the other: "
            + " ".join(f"{100 * error:.1f}" for error in curve)
            + " %.",
            f"Training error: dense {_percent(dense.train)}, copies {_percents(evidence.train)}.",
        ]
        if dense.test is not None and evidence.test is not None:
            errors = _percents(evidence.test)
            lines.append(f"Test error: dense {_percent(dense.test)}, copies {errors}.")
        return lines

    def _procedure(self) -> list[str]:
        recipe, pruned = self.retraining, self.pruned
        kept = f"; {pruned['classifier']}, the classifier, was kept" if pruned["classifier"] else ""
        milestones = " and ".join(str(epoch) for epoch in recipe["milestones"])
        decay = f", a tenth of it after epochs {milestones}" if milestones else ""
        examples = f"{self._example_count('train')} training examples"
        if self.examples["test"] is not None:
            examples += f", {self._example_count('test')} test examples"
        basis = f"No probability: {self.basis}."
        if self.probabilities is not None:
            basis = (
                f"The probability is {self.basis}: it is that of nets which looked alike, not of "
                "nets like yours."
            )
        return [
            f"Kept: the largest {100 * self.density:g} % of the weights of each of "
            f"{pruned['layers']} layers ({pruned['weights']:,} weights){kept}.",
            f"Retrained: {recipe['copies']} copies for {recipe['epochs']} epochs by "
            f"{recipe['optimizer']}, batches of {recipe['batch_size']}, rate "
            f"{recipe['lr']:g}{decay}; seed {recipe['seed']}.",
            f"Used: {examples}.",
            f"Took: {self.cost.epochs} epochs of retraining, {self.cost.steps:,} steps, "
            f"{self.cost.seconds:.0f} s on {self.cost.device}.",
            basis,
        ]

    def _example_count(self, split: str) -> str:
        count, total = self.examples[split], self.examples[f"{split}_found"]
        if total is None:
            return f"the first {count:,}"
        return f"all {count:,}" if count == total else f"{count:,} of {total:,}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for NaN."""
        values = {**dataclasses.asdict(self), "turn": self.turn, "open": self.open}
        return {name: _without_nan(value) for name, value in values.items()}

    def to_json(self) -> str:
        """Return the values of :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def figure(self, path: str | Path) -> None:
        """Draw the training errors on the line between the copies, as PNG, SVG or PDF.

        Raises:
            ThreeRegimeError: the file cannot be written.
        """
        from threeregime.figures import barrier

        curves = {
            name: evidence.curve
            for name, evidence in self.evidence.items()
            if not any(math.isnan(error) for curve in evidence.curve for error in curve)
        }
        try:
            barrier(curves).savefig(path)
        except (OSError, ValueError) as error:
            raise ThreeRegimeError(f"{path} cannot be written: {error}") from error


def _percent(error: float) -> str:
    return "unknown (diverged)" if math.isnan(error) else f"{100 * error:.1f} %"


def _percents(errors: tuple[float, ...]) -> str:
    return ", ".join(f"{100 * error:.1f}" for error in errors) + " %"


def _turn_phrase(turn: str) -> str:
    return "stay as it is" if turn == "stay" else f"train {turn}"


def _without_nan(value: Any) -> Any:
    """Return plain values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
