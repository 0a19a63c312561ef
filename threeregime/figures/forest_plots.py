"""Forest plot: the effects of all registered parts with their intervals, claim by claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from threeregime.analysis import Summary
from threeregime.claims import Decision, Verdict, registered_study
from threeregime.figures.style import LINES, canvas, legend_below
from threeregime.results import attach_facts

MARKS = {"holds": ("o", LINES[0]), "contradicted": ("X", LINES[5]), "open": ("D", "#777777")}
LIMIT = 1.5
"""Intervals that reach farther are cut off there, with an arrow."""


def forest(verdicts: Sequence[Verdict]) -> Figure:
    """Draw every primary effect with its interval at the level of its look, grouped by study.

    Effects are positive if the claim is true: of log errors, of log(1 - CKA), of LMC, of rank
    correlations, of areas and of accuracies, each in its own unit.

    Args:
        verdicts: as returned by `threeregime.claims.judge_claims`.
    """
    groups: dict[str, list[tuple[str, Decision]]] = {}
    for verdict in verdicts:
        for decision in verdict.decisions:
            part = decision.part
            several = len(verdict.decisions) > 1
            name = part.name if part.claim == part.study else part.claim
            label = f"{part.claim}: {part.name}" if several and name == part.claim else name
            groups.setdefault(part.study, []).append((label.replace("_", " "), decision))
    rows: list[tuple[str, Decision | None]] = []
    for study, members in groups.items():
        rows += [(study.replace("_", " "), None), *members]
    return _draw(rows, "effect, positive if the claim is true")


def headline_forest(summary: Summary, decisions: dict[str, Decision]) -> Figure:
    """Draw the headline effect of each study, and their mean with its interval.

    Args:
        summary: the mean over studies.
        decisions: the effect in each study; both as returned by `threeregime.claims.headline`.
    """
    rows: list[tuple[str, Decision | None]] = [
        (name.replace("_", " "), decision) for name, decision in decisions.items()
    ]
    words = "rank correlation of −LMC with the gain of a hotter dense run"
    return _draw(rows, words, (summary.effect, summary.low, summary.high))


def _draw(
    rows: Sequence[tuple[str, Decision | None]],
    label: str,
    mean: tuple[float, float, float] | None = None,
) -> Figure:
    count = len(rows) + (mean is not None)
    with canvas(height=0.19 * count + 1.0) as (fig, axes):
        ax = axes[0, 0]
        ax.axvline(0, color="black", lw=0.8)
        for y, (_, decision) in enumerate(rows):
            if decision is not None and np.isfinite(decision.effect):
                _draw_interval(ax, y, decision)
        if mean is not None:
            middle, low, high = mean
            y = len(rows)
            if np.isfinite(low):
                ax.fill([low, middle, high, middle], [y, y - 0.35, y, y + 0.35], color="black")
        names = [name for name, _ in rows] + ["mean over studies"] * (mean is not None)
        ax.set_yticks(range(count), names)
        for text, row in zip(ax.get_yticklabels(), [*rows, ("", None)], strict=False):
            text.set_fontweight("bold" if row[1] is None else "normal")
        ax.set_ylim(count - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(label)
        ax.grid(axis="x", alpha=0.3, lw=0.5)
        handles = [
            Line2D([], [], ls="", marker=mark, color=colour, ms=5, label=verdict)
            for verdict, (mark, colour) in MARKS.items()
        ]
        legend_below(fig, handles)
    studies = dict.fromkeys(decision.part.study for _, decision in rows if decision is not None)
    return attach_facts(fig, tables=[_tables_of(name) for name in studies])


def _tables_of(study: str) -> dict[str, str]:
    """Identity of a registered study's tables, for the caption."""
    known = registered_study(study)
    return asdict(known.tables.id) if known is not None and known.tables.id else {}


def _draw_interval(ax: Any, y: int, decision: Decision) -> None:
    mark, colour = MARKS[decision.verdict]
    low, high = np.clip([decision.low, decision.high], -LIMIT, LIMIT)
    ax.plot([low, high], [y, y], color=colour, lw=1.3)
    for end, known, arrow in ((low, decision.low, "<"), (high, decision.high, ">")):
        if end != known:
            ax.plot(end, y, arrow, color=colour, ms=4)
    ax.plot(np.clip(decision.effect, -LIMIT, LIMIT), y, mark, color=colour, ms=4.5)
