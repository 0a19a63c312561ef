"""Decisions on registered parts: Student's t over dense seeds, at up to three looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import stdtr  # type: ignore[import-untyped]

from threeregime.analysis import Array, PhaseDiagram, t_half_width
from threeregime.claims.effects import Evidence, part_effects
from threeregime.claims.registration import Part, RegisteredStudy, Rules
from threeregime.data import Dataset, load_task
from threeregime.errors import ThreeRegimeError
from threeregime.results import load_results

WORDS = ("holds", "contradicted", "mixed", "open")
"""Verdicts on a claim."""


@dataclass(frozen=True)
class Decision:
    """Decision on a registered part, with its effect and interval.

    Attributes:
        part: the part.
        verdict: "holds", "contradicted" or "open".
        seeds: dense seeds at the look that decided, or at the last one.
        effect: mean over these seeds; positive if the claim is true.
        low: lower end of the interval at the level of a look.
        high: upper end.
        p: two-sided p value of no effect.
    """

    part: Part
    verdict: str
    seeds: int
    effect: float
    low: float
    high: float
    p: float

    @property
    def excluded(self) -> float:
        """The size of effects that are excluded in both directions."""
        return max(abs(self.low), abs(self.high))


def decide(
    part: Part, evidence_at: Callable[[int], Evidence], seeds: int, rules: Rules
) -> Decision:
    """Decide a part at the looks that so many dense seeds allow; the first that decides, decides.

    Args:
        part: the part.
        evidence_at: function that returns the evidence of the first dense seeds.
        seeds: number of dense seeds that are computed.
        rules: looks and levels.

    Raises:
        ThreeRegimeError: there are fewer dense seeds than the first look needs.
    """
    looks = [look for look in rules.looks if look <= seeds]
    if not looks:
        raise ThreeRegimeError(
            f"{part.study} has {seeds} dense seeds: the first look needs {rules.looks[0]}"
        )
    for look in looks:
        decision = judge(part, part_effects(part, evidence_at(look)), rules)
        futile = -rules.futile < decision.low and decision.high < rules.futile
        if decision.verdict != "open" or futile:
            break
    return decision


def judge(part: Part, effects: Array, rules: Rules) -> Decision:
    """Judge effects by dense seed [D] at the level of one look; NaN values are left out."""
    known = effects[np.isfinite(effects)]
    count = len(known)
    if count < 2:
        return Decision(part, "open", count, float("nan"), -math.inf, math.inf, 1.0)
    effect, error = float(known.mean()), float(known.std(ddof=1)) / math.sqrt(count)
    half = t_half_width(error, count, rules.level)
    low, high = effect - half, effect + half
    verdict = "holds" if low > 0 else "contradicted" if high < 0 else "open"
    p = 2 * float(stdtr(count - 1, -abs(effect) / error)) if error else float(effect == 0)
    return Decision(part, verdict, count, effect, low, high, p)


def verdict_of_claim(decisions: Sequence[Decision]) -> str:
    """Combine the decisions on the primary parts of a claim."""
    verdicts = {decision.verdict for decision in decisions}
    if verdicts == {"holds"}:
        return "holds"
    if "contradicted" in verdicts:
        return "mixed" if "holds" in verdicts else "contradicted"
    return "open"


def false_discoveries(decisions: Sequence[Decision], rate: float = 0.05) -> list[bool]:
    """Return which effects remain at a rate of false discoveries (Benjamini and Hochberg, 1995)."""
    order = sorted(range(len(decisions)), key=lambda index: decisions[index].p)
    last = max(
        (
            rank
            for rank, index in enumerate(order, start=1)
            if decisions[index].p <= rate * rank / len(order)
        ),
        default=0,
    )
    return [index in order[:last] for index in range(len(decisions))]


def study_evidence(study: RegisteredStudy, seeds: int, rules: Rules, *roots: Path) -> Evidence:
    """Return the evidence of a study's first dense seeds, from the tables below some folders.

    Raises:
        ThreeRegimeError: some of the tables are missing.
    """
    experiment = study.experiment(seeds)
    tables = load_results(experiment, *roots)
    task = load_task(experiment.protocol.data)
    assert isinstance(task, Dataset)
    diagram = PhaseDiagram.from_results(
        tables, bootstrap=0, total=float(experiment.protocol.dense.epochs)
    )
    return Evidence(
        tables,
        diagram,
        rules,
        1 - 1 / task.classes,
        len(task.test_labels),
        experiment.protocol.retraining.epochs,
    )
