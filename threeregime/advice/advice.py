"""The answer to an engineer's question: a pruned net's regime in words, as JSON, as a figure."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threeregime.advice.candidates import DenseErrors, Evidence
from threeregime.analysis import LMC_THRESHOLD

SURE = 0.6
"""A regime less likely than this is not told from the others."""
FAR = 0.05
"""Copies whose training error is larger than the dense net's by this have not caught up."""
UNTRAINED = 0.5
"""A dense net whose training error is larger than this has yet to be trained."""
TURNS = {"I": "hotter", "II-A": "colder", "II-B": "stay"}
MEANS = {
    "I": "the retrained copies are poorly connected: between them lies a barrier of high error",
    "II-A": "the retrained copies are well connected, but they answer differently",
    "II-B": "the retrained copies are well connected, and they answer alike",
}
TODO = {
    "hotter": "Train hotter before you prune: stop the dense run earlier (half of the epochs is a "
    "start), or use smaller batches, or SAM with a larger rho.",
    "colder": "Train colder before you prune: train the dense net for longer, or with larger "
    "batches, or with SAM of a smaller rho.",
    "stay": "Stay: prune the net as it is. Neither hotter nor colder training promises much.",
}


@dataclass(frozen=True)
class Cost:
    """What an answer took: epochs and steps of all copies, seconds of everything, and where."""

    epochs: int
    steps: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Advice:
    """Which regime a pruned net is in, and which way to turn the temperature; print it to read it.

    Attributes:
        regime: "I", "II-A" or "II-B", of the chosen net.
        probabilities: of each regime; None where nothing is known of nets that look alike.
        basis: where the probabilities come from, or what the regime rests on instead.
        chosen: name of the net to prune.
        rule: by which it was chosen among several; empty where there was one.
        density: share of the weights that was kept.
        evidence: what retrained copies showed, by name of the net; where LMC of the best dense net
            is good enough, the others were not retrained.
        dense: errors of dense nets, by name.
        retraining: how copies were retrained.
        pruned: number of prunable weights and layers, and the name of the layer that was kept.
        examples: how many were used of each split, and how many there were.
        cost: what it took.
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
        """What the regime says to do before pruning: "hotter", "colder" or "stay"."""
        return TURNS[self.regime]

    @property
    def open(self) -> bool:
        """Whether the regime is not told from the others: less likely than `SURE`."""
        return self.probabilities is not None and self.probabilities[self.regime] < SURE

    def __str__(self) -> str:
        return "\n".join([*self._choice(), *self._verdict(), "", *self._seen(), "", *self._done()])

    def _choice(self) -> list[str]:
        """Which net to prune, of several."""
        if not self.rule:
            return []
        judged = "test" if self.dense[self.chosen].test is not None else "training"
        lines = [f"Prune {self.chosen} ({self.rule})."]
        if judged == "training":
            lines.append("There are no test data: dense nets are compared by their training error.")
        width = max(len(name) for name in self.dense)
        for name, dense in self.dense.items():
            error = dense.train if dense.test is None else dense.test
            line = f"  {name:{width}}  dense {judged} error {_percent(error)}"
            found = self.evidence.get(name)
            if found is None:
                line += "; not retrained"
            else:
                line += f"; pruned LMC {found.lmc:+.3f}, CKA {found.cka:.3f}"
                errors = found.train if found.test is None else found.test
                line += f", {judged} error {_percents(errors)}"
            lines.append(line)
        return [*lines, ""]

    def _verdict(self) -> list[str]:
        likely = ""
        if self.probabilities is not None:
            likely = f", probability {self.probabilities[self.regime]:.0%}"
        head = f"Regime {self.regime}{likely}: {MEANS[self.regime]}."
        if not self.open:
            return [head, TODO[self.turn], *self._caution()]
        assert self.probabilities is not None
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        likeliest, chance = ranked[0]
        again = "Ask again with more copies (copies=4) or a longer retraining before you act on it."
        if likeliest != self.regime:
            return [
                f"Open: LMC and CKA put it into Regime {self.regime} ({_in_words(self.turn)}), but "
                f"of nets which looked like it most ended in Regime {likeliest} ({chance:.0%}; "
                f"{_in_words(TURNS[likeliest])}).",
                again,
            ]
        chances = ", ".join(f"{name} {share:.0%}" for name, share in ranked)
        todo = TODO[self.turn]
        return [
            f"Open ({chances}), if anything Regime {self.regime}: {MEANS[self.regime]}.",
            f"If so: {todo[0].lower()}{todo[1:]}",
            again,
        ]

    def _caution(self) -> list[str]:
        """What speaks against an answer: a dense net or copies which have not learned enough."""
        errors, dense = self.evidence[self.chosen].train, self.dense[self.chosen].train
        if dense > UNTRAINED and max(errors) < dense - FAR:
            return [
                "Caution: the dense net errs on more than half of its training data, and its "
                "pruned copies on fewer: it has hardly been trained. Train it first, and ask again."
            ]
        if self.regime == "I" or min(errors) < dense + FAR:
            return []
        return [
            "Caution: the copies still err far more than the dense net, so they may be alike only "
            "for want of training; give more epochs or a larger lr to be sure."
        ]

    def _seen(self) -> list[str]:
        found, dense = self.evidence[self.chosen], self.dense[self.chosen]
        curve = [sum(points) / len(points) for points in zip(*found.curve, strict=True)]
        side = "at or above" if found.lmc >= LMC_THRESHOLD else "below"
        lines = [
            f"LMC {found.lmc:+.3f} ({side} {LMC_THRESHOLD:g}), CKA {found.cka:.3f}.",
            "Training error on the line from one copy to the other: "
            + " ".join(f"{100 * error:.1f}" for error in curve)
            + " %.",
            f"Training error: dense {_percent(dense.train)}, copies {_percents(found.train)}.",
        ]
        if dense.test is not None and found.test is not None:
            tested = _percents(found.test)
            lines.append(f"Test error: dense {_percent(dense.test)}, copies {tested}.")
        return lines

    def _done(self) -> list[str]:
        how, pruned = self.retraining, self.pruned
        kept = f"; {pruned['classifier']}, the classifier, was kept" if pruned["classifier"] else ""
        falls = " and ".join(str(epoch) for epoch in how["milestones"])
        rate = f"{how['lr']:g}" + (f", a tenth of it after epochs {falls}" if falls else "")
        basis = "The probability is" if self.probabilities is not None else "No probability:"
        caveat = (
            ": it is that of nets which looked alike, not of nets like yours."
            if self.probabilities is not None
            else "."
        )
        return [
            f"Kept: the largest {100 * self.density:g} % of the weights of each of "
            f"{pruned['layers']} layers ({pruned['weights']:,} weights){kept}.",
            f"Retrained: {how['copies']} copies for {how['epochs']} epochs by {how['optimizer']}, "
            f"batches of {how['batch_size']}, rate {rate}; seed {how['seed']}.",
            f"Used: {self._used('train')} training examples"
            + ("." if self.examples["test"] is None else f", {self._used('test')} test examples."),
            f"Took: {self.cost.epochs} epochs of retraining, {self.cost.steps:,} steps, "
            f"{self.cost.seconds:.0f} s on {self.cost.device}.",
            f"{basis} {self.basis}{caveat}",
        ]

    def _used(self, split: str) -> str:
        used, found = self.examples[split], self.examples[f"{split}_found"]
        if found is None:
            return f"the first {used:,}"
        return f"all {used:,}" if used == found else f"{used:,} of {found:,}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them: no number is None."""
        plain = {**dataclasses.asdict(self), "turn": self.turn, "open": self.open}
        made: dict[str, Any] = _without_nan(plain)
        return made

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=1)

    def figure(self, path: str | Path) -> None:
        """Draw the barrier: training errors on the line between copies, as PNG, SVG or PDF.

        Raises:
            ThreeRegimeError: the file cannot be written so.
        """
        from threeregime.errors import ThreeRegimeError
        from threeregime.figures import barrier

        curves = {
            name: found.curve
            for name, found in self.evidence.items()
            if not any(math.isnan(error) for curve in found.curve for error in curve)
        }
        made = barrier(curves)
        try:
            made.savefig(path)
        except (OSError, ValueError) as error:
            raise ThreeRegimeError(f"{path} cannot be written: {error}") from error


def _percent(error: float) -> str:
    return "unknown (diverged)" if math.isnan(error) else f"{100 * error:.1f} %"


def _percents(errors: tuple[float, ...]) -> str:
    return ", ".join(f"{100 * error:.1f}" for error in errors) + " %"


def _in_words(turn: str) -> str:
    return "stay as it is" if turn == "stay" else f"train {turn}"


def _without_nan(value: Any) -> Any:
    """Plain values with None for what is not a number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
