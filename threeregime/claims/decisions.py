"""Decisions on registered parts: Student's t over dense seeds, at up to three looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr  # type: ignore[import-untyped]
from scipy.stats import false_discovery_control  # type: ignore[import-untyped]

from threeregime.analysis import Array, Study, t_half_width
from threeregime.claims.estimands import part_effects
from threeregime.claims.evidence import Evidence
from threeregime.claims.parts import Part, Rules


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


def decide_parts(parts: Sequence[Part], study: Study, rules: Rules) -> list[Decision]:
    """Decide parts on the tables of a study, at the looks that its dense seeds allow."""
    seeds = len(study.experiment.dense_seeds)
    evidence: dict[int, Evidence] = {}

    def evidence_at(look: int) -> Evidence:
        if look not in evidence:
            evidence[look] = Evidence.from_study(study, rules, look)
        return evidence[look]

    return [decide(part, evidence_at, seeds, rules) for part in parts]


def decide(
    part: Part, evidence_at: Callable[[int], Evidence], seeds: int, rules: Rules
) -> Decision:
    """Decide a part at the looks that so many dense seeds allow; the first that decides, decides.

    With fewer seeds than the first look asks for, they are judged all the same, at the same level.

    Args:
        part: the part.
        evidence_at: function that returns the evidence of the first dense seeds.
        seeds: number of dense seeds that are computed.
        rules: looks and levels.
    """
    for look in [look for look in rules.looks if look <= seeds] or [seeds]:
        decision = judge(part, part_effects(part, evidence_at(look)), rules)
        if decision.verdict != "open" or is_futile(decision, rules):
            break
    return decision


def is_futile(decision: Decision, rules: Rules) -> bool:
    """Return whether the interval lies within the limits of effects not looked at again."""
    return -rules.futile < decision.low and decision.high < rules.futile


def judge(part: Part, effects: Array, rules: Rules) -> Decision:
    """Judge effects by dense seed [D] at the level of one look; NaN values are left out."""
    known = effects[np.isfinite(effects)]
    count = len(known)
    if count < 2:
        effect = float(known[0]) if count else math.nan
        return Decision(part, "open", count, effect, -math.inf, math.inf, 1.0)
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
    adjusted = false_discovery_control([decision.p for decision in decisions])
    return [bool(p <= rate) for p in adjusted]
