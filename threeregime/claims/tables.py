"""Decisions as tables and in words: verdicts, effects with their intervals, dense seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from threeregime.claims.decisions import Decision
from threeregime.claims.effects import part_effects, part_words
from threeregime.claims.evidence import Evidence
from threeregime.claims.registration import load_registration

if TYPE_CHECKING:
    from IPython.display import Markdown


def interval_words(decision: Decision) -> str:
    """Effect, interval and dense seeds of a decision; of an open one what is excluded."""
    if math.isnan(decision.effect):
        return "no such cells"
    if math.isinf(decision.low):
        return f"{decision.effect:+.2f} (one seed)"
    words = f"{decision.effect:+.2f} ({decision.low:+.2f} to {decision.high:+.2f})"
    words += f", {decision.seeds} seeds"
    is_open = decision.verdict == "open"
    return words + (f", beyond {decision.excluded:.2f} excluded" if is_open else "")


def decision_table(decisions: Sequence[Decision], reference: bool = False) -> Markdown:
    """Show decisions on registered parts, one row each.

    Args:
        decisions: on parts of one or more claims.
        reference: whether to add the effects on the paper's own values of Figure 2.
    """
    from IPython.display import Markdown

    registration = load_registration()
    heads = ["claim", "effect", "here", "mean (interval)"] + ["the paper's values"] * reference
    lines = [f"| {' | '.join(heads)} |", "|" + ":--|" * len(heads)]
    paper = Evidence.from_reference(registration.rules) if reference else None
    for decision in decisions:
        part = decision.part
        row = [
            registration.claims[part.claim].statement,
            part_words(part),
            f"**{decision.verdict}**",
            interval_words(decision),
        ]
        if paper is not None:
            row.append(f"{part_effects(part, paper)[0]:+.2f}")
        lines.append(f"| {' | '.join(row)} |")
    return Markdown("\n".join(lines))
