"""Verdicts on the claims of the paper, from the tables that are available.

The parts of a claim are statements (`threeregime.claims.statement`) on the tables of experiments.
The claim *holds* if all parts hold, *does not hold* if some part does not and none holds, *holds in
part* if some hold, and is *open* if the tables decide none. If tables are missing it is *not
measured*. The claims are listed in `threeregime.claims.ledger`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threeregime.analysis import Study
from threeregime.claims import tables
from threeregime.claims.ledger import CLAIMS, Claim
from threeregime.claims.statement import Statement
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import list_scales, load_experiment, load_scale
from threeregime.results import attach_facts
from threeregime.results import tables as results

if TYPE_CHECKING:
    from IPython.display import Markdown


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim; ``parts`` is empty if it is not measured."""

    claim: Claim
    scale: str
    verdict: str
    parts: tuple[Statement, ...]


VERDICTS = ("holds", "holds in part", "open", "does not hold", "not measured")


def verdict_of(parts: Sequence[Statement]) -> str:
    """Combine the verdicts on the parts of a claim."""
    verdicts = {part.holds for part in parts}
    if verdicts == {True}:
        return "holds"
    if True in verdicts:
        return "holds in part"
    return "does not hold" if False in verdicts else "open"


def judge_claims(
    scale: str = "digits", root: Path | None = None, names: Iterable[str] = ()
) -> list[Verdict]:
    """Judge claims on the available tables; nothing is computed.

    Args:
        scale: of the tables.
        root: folder of the tables; None: the shipped ones.
        names: keys of the claims; none: all.

    Raises:
        ThreeRegimeError: If a claim or the scale is unknown.
    """
    load_scale(scale)  # raises if the scale is unknown
    names = list(names) or list(CLAIMS)
    if unknown := set(names) - set(CLAIMS):
        known = ", ".join(CLAIMS)
        raise ThreeRegimeError(f"claim {min(unknown)!r} is not known: one of {known}")
    read = functools.cache(functools.partial(_study, scale, root or results.ROOT))
    return [_judge(CLAIMS[name], scale, read) for name in names]


def _study(scale: str, root: Path, name: str) -> Study | None:
    """The whole shipped study of an experiment; None if a part of it is missing."""
    if scale not in list_scales(name):
        return None
    experiment = load_experiment(name, scale)
    return Study.shipped(experiment, root)


def _judge(claim: Claim, scale: str, read: Callable[[str], Study | None]) -> Verdict:
    studies = [study for name in claim.experiments if (study := read(name)) is not None]
    if len(studies) < len(claim.experiments):
        return Verdict(claim, scale, "not measured", ())
    parts = tuple(claim.judge(studies))
    return Verdict(claim, scale, verdict_of(parts), parts)


def claims_table(verdicts: Iterable[Verdict]) -> Markdown:
    """Show verdicts as a table, marked with its claims so that other pages can quote them."""
    from IPython.display import Markdown

    facts: list[dict[str, Any]] = [
        {
            "name": v.claim.name,
            "where": v.claim.where,
            "statement": v.claim.statement,
            "verdict": v.verdict,
            "effect": effects(v),
            "experiments": list(v.claim.experiments),
            "scale": v.scale,
        }
        for v in verdicts
    ]
    rows = [("in the paper", "statement", "here", "effect (95 % interval)"), (":--",) * 4]
    rows += [(f["where"], f["statement"], f"**{f['verdict']}**", f["effect"]) for f in facts]
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return attach_facts(Markdown(text), claims=facts)


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """Verdicts for a terminal, one line each, and a last line with their counts."""
    verdicts = list(verdicts)
    width = max(len(v.claim.name) for v in verdicts) + 2
    lines = [f"{v.verdict:<14}{v.claim.name:<{width}}{effects(v)}" for v in verdicts]
    return [*lines, summary(verdicts)]


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count the claims by verdict."""
    counter = Counter(verdict.verdict for verdict in verdicts)
    return {verdict: counter[verdict] for verdict in VERDICTS}


def summary(verdicts: Iterable[Verdict]) -> str:
    """Counts in one line, such as "holds: 7, open: 3"."""
    return ", ".join(f"{verdict}: {n}" for verdict, n in counts(verdicts).items() if n)


def effects(verdict: Verdict) -> str:
    """Effect and 95 % interval of a claim of one part; for several parts, how many hold."""
    if not verdict.parts:
        experiments = ", ".join(verdict.claim.experiments)
        return f"some tables of {experiments} are missing at scale {verdict.scale}"
    if len(verdict.parts) == 1:
        return tables.format_effect(verdict.parts[0])
    holds = [part.holds for part in verdict.parts]
    return f"{holds.count(True)} of {len(holds)} parts hold, {holds.count(False)} do not"
