"""Verdicts on the ledger of what the paper says, from the tables that there are.

A claim has parts, each a `threeregime.claims.statement.Statement` on the tables of an experiment.
It
*holds* where all parts hold, *does not hold* where some part does not and none holds, *holds in
part* where some do, and is *open* where the tables decide none. Tables that are not there leave it
*not measured*. The claims themselves stand in `threeregime.claims.ledger`.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from threeregime.analysis import Study
from threeregime.claims import tables
from threeregime.claims.ledger import CLAIMS, Claim
from threeregime.claims.statement import Statement
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import list_scales, load_experiment, load_scale
from threeregime.results import attach_facts
from threeregime.results import tables as results


@dataclass(frozen=True)
class Verdict:
    """A claim with what the tables say of it; ``parts`` is empty where it is not measured."""

    claim: Claim
    scale: str
    verdict: str
    parts: tuple[Statement, ...]


VERDICTS = ("holds", "holds in part", "open", "does not hold", "not measured")


def verdict_of(parts: Sequence[Statement]) -> str:
    """The verdict on a claim from those on its parts."""
    kinds = {part.holds for part in parts}
    if kinds == {True}:
        return "holds"
    if True in kinds:
        return "holds in part"
    return "does not hold" if False in kinds else "open"


def judge_claims(
    scale: str = "digits", root: Path | None = None, names: Iterable[str] = ()
) -> list[Verdict]:
    """Judge the claims on the tables there are; nothing is computed.

    Args:
        scale: of the tables.
        root: where tables lie; None: the shipped ones.
        names: keys of the claims; none: all.

    Raises:
        ThreeRegimeError: an unknown claim or scale.
    """
    load_scale(scale)  # refuses one that there is not
    wanted = list(names) or list(CLAIMS)
    if unknown := set(wanted) - set(CLAIMS):
        known = ", ".join(CLAIMS)
        raise ThreeRegimeError(f"claim {min(unknown)!r} is not known: one of {known}")
    read = functools.cache(functools.partial(_study, scale, root or results.ROOT))
    return [_judged(CLAIMS[name], scale, read) for name in wanted]


def _study(scale: str, root: Path, name: str) -> Study | None:
    """The whole shipped study of an experiment; None where a part of it is missing."""
    if scale not in list_scales(name):
        return None
    experiment = load_experiment(name, scale)
    return Study.shipped(experiment, root)


def _judged(claim: Claim, scale: str, read: Callable[[str], Study | None]) -> Verdict:
    found = {name: read(name) for name in claim.experiments}
    there = {name: study for name, study in found.items() if study is not None}
    if len(there) < len(found):
        return Verdict(claim, scale, "not measured", ())
    parts = tuple(claim.parts(there))
    return Verdict(claim, scale, verdict_of(parts), parts)


def table(verdicts: Iterable[Verdict]) -> pd.DataFrame:
    """The verdicts as a table: where, statement, verdict, effect, the experiments it rests on."""
    return pd.DataFrame(
        {
            "in the paper": v.claim.where,
            "statement": v.claim.statement,
            "here": v.verdict,
            "effect (95 % interval)": effects(v),
            "tables": ", ".join(v.claim.experiments),
        }
        for v in verdicts
    )


def claims_table(verdicts: Iterable[Verdict]) -> Markdown:
    """The verdicts as the ledger's page shows them; other pages quote it by what it says."""
    verdicts = list(verdicts)
    shown = table(verdicts).drop(columns="tables")
    shown["here"] = "**" + shown["here"] + "**"
    lines = [" | ".join(row) for row in ([*shown], [":--"] * shown.shape[1], *shown.to_numpy())]
    said = [
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
    return attach_facts(Markdown("\n".join(f"| {line} |" for line in lines)), claims=said)


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """The verdicts for a terminal, one line each, their counts last."""
    verdicts = list(verdicts)
    wide = max(len(v.claim.name) for v in verdicts)
    made = [f"{v.verdict:<14}{v.claim.name:<{wide + 2}}{effects(v)}" for v in verdicts]
    return [*made, summary(verdicts)]


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many claims have each verdict."""
    found = Counter(verdict.verdict for verdict in verdicts)
    return {kind: found[kind] for kind in VERDICTS}


def summary(verdicts: Iterable[Verdict]) -> str:
    """The same in a line, such as "holds: 7, open: 3"."""
    return ", ".join(f"{kind}: {n}" for kind, n in counts(verdicts).items() if n)


def effects(verdict: Verdict) -> str:
    """Effect and 95 % interval of a claim of one part; of several, how many hold."""
    if not verdict.parts:
        experiments = ", ".join(verdict.claim.experiments)
        return f"some tables of {experiments} are missing at scale {verdict.scale}"
    if len(verdict.parts) == 1:
        return tables.format_effect(verdict.parts[0])
    hold = sum(part.holds is True for part in verdict.parts)
    fail = sum(part.holds is False for part in verdict.parts)
    return f"{hold} of {len(verdict.parts)} parts hold, {fail} do not"
