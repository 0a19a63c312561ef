"""The answer of `advise`: the regime of a pruned net as text, as JSON, or as a figure."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threeregime.advice.judgement import BY_HEART, DenseErrors, Evidence, Finding
from threeregime.analysis import LMC_THRESHOLD
from threeregime.calibration import CANNOT_TELL
from threeregime.errors import ThreeRegimeError

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
        regime: "I", "II-A" or "II-B", of the chosen net, by LMC and CKA.
        turn: the change of the temperature before pruning: "hotter", "colder", "stay", or "cannot
            tell".
        reason: why it cannot be told, and what would settle it; else empty.
        probabilities: probability that hotter, colder or neither gives a better pruned net; None
            if no net whose truth is known looked like this one.
        basis: source of the probabilities, or of the direction if there are none.
        findings: problems that were seen; with one that ``blocks``, there is no answer.
        notes: what was done to the copy of the net, or assumed.
        chosen: name of the net to prune.
        rule: name of the rule that chose it among several; empty for a single net.
        density: fraction of the weights that is kept.
        evidence: measurements of the retrained copies by name of the net. Algorithms 2 and 2.1 do
            not retrain the others if LMC of the best dense net is good enough.
        dense: errors of the dense nets, by name.
        retraining: recipe of the retraining.
        pruned: number of prunable weights and layers, their types, the name of the unpruned layer
            and the method.
        examples: number of examples used and available in each split.
        cost: time and steps.
    """

    regime: str
    turn: str
    reason: str
    probabilities: dict[str, float] | None
    basis: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
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
    def open(self) -> bool:
        """True if it cannot be told whether to change the temperature."""
        return self.turn == CANNOT_TELL

    @property
    def pruning_cost(self) -> float:
        """Mean error of the copies minus that of the dense net, on test data if there are any."""
        errors = self.evidence[self.chosen].errors
        return sum(errors) / len(errors) - self.dense[self.chosen].error

    def __str__(self) -> str:
        first = [self._price(), *self._choice(), *self._verdict()]
        return "\n".join([*first, "", *self._measurements(), "", *self._procedure()])

    def _price(self) -> str:
        """Return the error that pruning costs, which matters most."""
        evidence, dense = self.evidence[self.chosen], self.dense[self.chosen]
        split = "training" if evidence.test is None else "test"
        return (
            f"Pruned to {100 * self.density:g} % of its weights and retrained, the net errs on "
            f"{_percents(evidence.errors)} of the {split} examples (its copies), dense on "
            f"{_percent(dense.error)}: {_points(self.pruning_cost)}."
        )

    def _choice(self) -> list[str]:
        """Return which of several nets to prune, and why."""
        if not self.rule:
            return []
        split = "test" if self.dense[self.chosen].test is not None else "held-out"
        lines = [f"Prune {self.chosen} ({self.rule})."]
        if any(finding.name == BY_HEART and finding.blocks for finding in self.findings):
            lines = [f"Cannot tell which to prune: {self.rule} would choose {self.chosen}."]
        if split == "held-out":
            lines.append(
                "There are no test data: the errors are those of training examples that were held "
                "out from retraining, which the dense nets have seen."
            )
        width = max(len(name) for name in self.dense)
        for name, dense in self.dense.items():
            line = f"  {name:{width}}  dense {split} error {_percent(dense.unseen)}"
            evidence = self.evidence.get(name)
            if evidence is None:
                line += "; not retrained"
            else:
                line += f"; pruned LMC {evidence.lmc:+.3f}, CKA {evidence.cka:.3f}"
                line += f", {split} error {_percents(evidence.unseen)}"
            lines.append(line)
        return [*lines, ""]

    def _verdict(self) -> list[str]:
        """Return the direction or why there is none, then all cautions."""
        if self.open:
            # A problem that was found is told below.
            told = any(self.reason == finding.text for finding in self.findings)
            why = "" if told else f": {self.reason.rstrip('.')}"
            lines = [f"Cannot tell whether to train hotter or colder{why}."]
        else:
            lines = [f"Regime {self.regime}: {MEANINGS[self.regime]}."]
            lines.append(RECOMMENDATIONS[self.turn] + self._certainty())
        return lines + [f"Caution: {_sentence(f.text)}" for f in self.findings]

    def _certainty(self) -> str:
        """Return the probability of the direction as a sentence; empty if there is none."""
        if self.probabilities is None:
            return ""
        others = ", ".join(
            f"{name} {share:.0%}" for name, share in self.probabilities.items() if name != self.turn
        )
        return f" Probability {self.probabilities[self.turn]:.0%} ({others})."

    def _measurements(self) -> list[str]:
        evidence, dense = self.evidence[self.chosen], self.dense[self.chosen]
        curve = [sum(points) / len(points) for points in zip(*evidence.curve, strict=True)]
        side = "at or above" if evidence.lmc >= LMC_THRESHOLD else "below"
        lines = [
            f"LMC {evidence.lmc:+.3f} ({side} {LMC_THRESHOLD:g}), CKA {evidence.cka:.3f}: Regime "
            f"{self.regime}.",
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
        """Return what was done, assumed and used."""
        pruned = self.pruned
        kept = f"; {pruned['classifier']}, the classifier, was kept" if pruned["classifier"] else ""
        kinds = ", ".join(f"{count} {kind}" for kind, count in pruned["kinds"].items())
        each = "of all" if pruned["method"] == "global" else "of each of"
        examples = f"{self._example_count('train')} training examples"
        if self.examples["held_out"]:
            examples += f", {self.examples['held_out']:,} held out from retraining"
        if self.examples["test"] is not None:
            examples += f", {self._example_count('test')} test examples"
        basis = f"No probability: {self.basis}."
        if self.probabilities is not None:
            basis = f"The probability is {self.basis}. Yours may be of another kind."
        return [
            f"Kept: the largest {100 * self.density:g} % of the weights {each} "
            f"{pruned['layers']} layers ({kinds}; {pruned['weights']:,} weights){kept}.",
            *(f"Note: {note}." for note in self.notes),
            self._retraining_line(),
            f"Used: {examples}.",
            f"Took: {self.cost.epochs} epochs of retraining, {self.cost.steps:,} steps, "
            f"{self.cost.seconds:.0f} s on {self.cost.device}.",
            basis,
        ]

    def _retraining_line(self) -> str:
        recipe = self.retraining
        if recipe["function"]:
            return f"Retrained: {recipe['copies']} copies by {recipe['function']}."
        milestones = " and ".join(str(epoch) for epoch in recipe["milestones"])
        decay = f", a tenth of it after epochs {milestones}" if milestones else ""
        if recipe["weight_decay"]:
            decay += f", weight decay {recipe['weight_decay']:g}"
        return (
            f"Retrained: {recipe['copies']} copies for {recipe['epochs']} epochs by "
            f"{recipe['optimizer']}, batches of {recipe['batch_size']}, rate {recipe['lr']:g}"
            f"{decay}; seed {recipe['seed']}."
        )

    def _example_count(self, split: str) -> str:
        count, total = self.examples[split], self.examples[f"{split}_found"]
        if total is None:
            return f"the first {count:,}"
        return f"all {count:,}" if count == total else f"{count:,} of {total:,}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with None for NaN."""
        derived = {"open": self.open, "pruning_cost": self.pruning_cost}
        values = {**dataclasses.asdict(self), **derived}
        return {name: _without_nan(value) for name, value in values.items()}

    def to_json(self) -> str:
        """Return the values of :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=1)

    def figure(self, path: str | Path) -> None:
        """Draw the training errors on the line between the copies, as PNG, SVG or PDF.

        Raises:
            ThreeRegimeError: the file cannot be written.
        """
        try:
            self._barrier().savefig(path)
        except (OSError, ValueError) as error:
            raise ThreeRegimeError(f"{path} cannot be written: {error}") from error

    def _barrier(self) -> Any:
        """Return the figure of all barriers that were measured."""
        from threeregime.figures import barrier

        curves = {
            name: evidence.curve
            for name, evidence in self.evidence.items()
            if not any(math.isnan(error) for curve in evidence.curve for error in curve)
        }
        return barrier(curves)

    def _repr_html_(self) -> str:
        """Return the text and the barrier as HTML, for a notebook."""
        drawing = io.StringIO()
        self._barrier().savefig(drawing, format="svg")
        svg = drawing.getvalue()
        return f"<pre>{html.escape(str(self))}</pre>{svg[svg.index('<svg') :]}"


def _percent(error: float) -> str:
    return "unknown (diverged)" if math.isnan(error) else f"{100 * error:.1f} %"


def _percents(errors: tuple[float, ...]) -> str:
    return ", ".join(f"{100 * error:.1f}" for error in errors) + " %"


def _points(cost: float) -> str:
    """Return what pruning costs, in words; retraining may gain more."""
    if math.isnan(cost):
        return "what pruning costs is unknown"
    if cost < 0:
        return f"pruning with retraining gains {-100 * cost:.1f} points"
    return f"pruning costs {100 * cost:.1f} points"


def _sentence(text: str) -> str:
    """Return a text with a capital at its start and a full stop at its end."""
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _without_nan(value: Any) -> Any:
    """Return plain values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
