"""List of claims as a forest plot in HTML: each row opens to its rule, its seeds and its data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from threeregime.claims import (
    Decision,
    RegisteredStudy,
    Verdict,
    effects_of,
    interval_words,
    load_registration,
    part_words,
)
from threeregime.figures.forest_plots import LIMIT
from threeregime.results import attach_facts

if TYPE_CHECKING:
    from IPython.display import HTML

SIGNS = {"holds": "✓", "contradicted": "✗", "mixed": "◐", "open": "?", "not measured": "–"}
WIDTH, ROW = 240, 14
"""Pixels of a row's plot: its width, and its height for each part."""
EDGE = 8
"""Pixels left free at both sides, for arrows."""


def claims_list(verdicts: Iterable[Verdict]) -> HTML:
    """Show verdicts as a forest plot whose rows open, grouped by study.

    A page of the book adds filters by section and verdict (``book/_assets/claims.js``). The claims
    are attached as facts, so that other pages can quote them.

    Args:
        verdicts: as returned by `threeregime.claims.judge_claims`.
    """
    from IPython.display import HTML

    verdicts = list(verdicts)
    groups: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault(load_registration().parts_of(verdict.claim.name)[0].study, []).append(
            verdict
        )
    facts = [
        {
            "name": v.claim.name,
            "where": v.claim.where,
            "statement": v.claim.statement,
            "verdict": v.verdict,
            "effect": effects_of(v),
            "experiments": list(v.experiments),
        }
        for v in verdicts
    ]
    parts = [_group(name, members) for name, members in groups.items()]
    return attach_facts(HTML(f'<div class="claims">{_axis()}{"".join(parts)}</div>'), claims=facts)


def _group(study: str, verdicts: Sequence[Verdict]) -> str:
    registered = load_registration().studies[study]
    title = registered.experiment(1).title
    rows = "".join(map(_row, verdicts))
    return f"<section><h3>{escape(title)} <span>{escape(study)}</span></h3>{rows}</section>"


def _row(verdict: Verdict) -> str:
    claim, kind = verdict.claim, verdict.verdict
    section = claim.where.partition(",")[0]
    return (
        f'<details id="claim-{claim.name}" class="claim {kind.replace(" ", "-")}" '
        f'data-section="{escape(section)}" data-verdict="{kind}"><summary>'
        f'<span class="verdict"><span aria-hidden="true">{SIGNS[kind]}</span> {kind}</span> '
        f'<span class="statement">{escape(claim.statement)}</span> '
        f"{_plot(verdict)}</summary>{_body(verdict)}</details>"
    )


def _place(value: float) -> float:
    """Return the horizontal position of an effect; those beyond the limit lie at the edge."""
    share = (max(-LIMIT, min(LIMIT, value)) + LIMIT) / (2 * LIMIT)
    return round(EDGE + share * (WIDTH - 2 * EDGE), 1)


def _plot(verdict: Verdict) -> str:
    """Return the intervals of a claim's parts as a picture; its text for who does not see it."""
    shown = [d for d in verdict.decisions if math.isfinite(d.effect)]
    if not shown:
        return f'<span class="no-plot">{escape(effects_of(verdict))}</span>'
    height = ROW * len(shown)
    zero = _place(0)
    marks = "".join(_interval(d, ROW * number + ROW / 2) for number, d in enumerate(shown))
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(effects_of(verdict))}">'
        f'<line class="zero" x1="{zero}" x2="{zero}" y1="0" y2="{height}"/>{marks}</svg>'
    )


def _interval(decision: Decision, y: float) -> str:
    """Return a line from end to end with the effect on it, and arrows where it is cut off."""
    low, high, middle = (_place(v) for v in (decision.low, decision.high, decision.effect))
    arrows = ""
    if decision.low < -LIMIT:
        arrows += f'<path d="M{low},{y - 4} l-6,4 l6,4 z"/>'
    if decision.high > LIMIT:
        arrows += f'<path d="M{high},{y - 4} l6,4 l-6,4 z"/>'
    return (
        f'<g class="{decision.verdict}"><line x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>{arrows}'
        f'<circle cx="{middle}" cy="{y}" r="3.5"/></g>'
    )


def _axis() -> str:
    texts = "".join(
        f'<text x="{_place(tick)}" y="12" text-anchor="middle">{words}</text>'
        for tick, words in ((-1, "−1"), (0, "0"), (1, "+1"))
    )
    return (
        '<p class="claims-axis"><span>effect, with its interval; positive if the claim is '
        f'true</span> <svg viewBox="0 0 {WIDTH} 16" width="{WIDTH}" height="16" '
        f'aria-hidden="true">{texts}</svg></p>'
    )


def _body(verdict: Verdict) -> str:
    """Return what a row opens to: its place in the paper, rule, seeds, data and commands."""
    registration = load_registration()
    decided = {decision.part: decision for decision in verdict.decisions}
    rules = []
    for part in registration.parts_of(verdict.claim.name):
        words = "not measured"
        if part in decided:
            words = f"<strong>{decided[part].verdict}</strong>, {interval_words(decided[part])}"
        name = escape(part.name.replace("_", " "))
        rules.append(f"<dt>{name}</dt><dd>{escape(part_words(part))}: {words}</dd>")
    names = dict.fromkeys(part.study for part in registration.parts_of(verdict.claim.name))
    studies = [registration.studies[name] for name in names]
    return (
        f'<div class="claim-body"><p>{escape(verdict.claim.where)} of the paper.</p>'
        f"<dl>{''.join(rules)}</dl>"
        f"{''.join(_data(study, verdict.decisions) for study in studies)}"
        f"<pre>{escape(_commands(verdict, studies))}</pre></div>"
    )


def _data(study: RegisteredStudy, decisions: Sequence[Decision]) -> str:
    experiment = study.experiment(1)
    seeds = max([d.seeds for d in decisions if d.part.study == study.name], default=0)
    first = study.first_dense_seed
    which = f"dense seeds {first} to {first + seeds - 1}" if seeds else "no dense seeds yet"
    cells = len(experiment.variants) * len(experiment.temperatures) * len(experiment.loads)
    return (
        f"<p>Decided by the tables of {escape(study.experiment_name)} at scale {study.scale}: "
        f"{which}, {study.copies} copies of each in {cells} cells.</p>"
    )


def _commands(verdict: Verdict, studies: Sequence[RegisteredStudy]) -> str:
    """Return the commands that compute a claim's tables anew, and judge it by them."""
    sweeps = [
        f"threeregime sweep {study.experiment_name} --scale {study.scale} --out mine"
        + (f" --set data.name={study.data}" if study.data else "")
        for study in studies
    ]
    judge = f"threeregime claims --only {verdict.claim.name} --root mine"
    return "\n".join([*sweeps, judge])
