"""Verdicts on the claims of the paper, from the tables of the registered studies.

What decides a claim is registered in ``registered.toml``; nothing is computed here but effects. A
claim whose study is not yet complete at its first look is *not measured*.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from threeregime.analysis import Study, Summary, combine
from threeregime.claims.decisions import Decision, decide_parts, judge, verdict_of_claim
from threeregime.claims.effects import EFFECTS
from threeregime.claims.estimands import part_effects, part_words
from threeregime.claims.evidence import Evidence
from threeregime.claims.parts import Claim, Part, RegisteredStudy
from threeregime.claims.registration import Registration, load_registration
from threeregime.errors import ThreeRegimeError
from threeregime.results import tables as results
from threeregime.results import tables_folder

if TYPE_CHECKING:
    from IPython.display import Markdown

VERDICTS = ("holds", "contradicted", "mixed", "open", "not measured")


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        claim: the claim.
        verdict: one of :data:`VERDICTS`.
        decisions: on its parts; of those studies that are complete at their first look.
        experiments: names of the experiments that it rests on.
    """

    claim: Claim
    verdict: str
    decisions: tuple[Decision, ...]
    experiments: tuple[str, ...]


def judge_claims(names: Iterable[str] = (), root: Path | None = None) -> list[Verdict]:
    """Judge claims on the tables of their registered studies; nothing is trained.

    Args:
        names: keys of the claims; none: all.
        root: folder of the tables; None: the shipped ones.

    Raises:
        ThreeRegimeError: a claim is not known, or the folder is not there.
    """
    if root is not None and not root.is_dir():
        raise ThreeRegimeError(f"{root} is missing: name a folder of tables")
    registration = load_registration()
    names = list(names) or list(registration.claims)
    if unknown := set(names) - set(registration.claims):
        known = ", ".join(registration.claims)
        raise ThreeRegimeError(f"claim {min(unknown)!r} is not known: one of {known}")
    parts = [part for part in registration.parts if part.claim in names]
    decisions: dict[Part, Decision] = {}
    for name in {part.study for part in parts}:
        study = registered_study(name, root)
        if study is not None:
            own = [part for part in parts if part.study == name]
            decisions |= zip(own, decide_parts(own, study, registration.rules), strict=True)
    return [_verdict(registration, name, decisions) for name in names]


def registered_study(name: str, root: Path | None = None) -> Study | None:
    """Return a registered study at its last complete look; None before the first.

    Args:
        name: of the study.
        root: folder of the tables; None: the shipped ones.
    """
    registration = load_registration()
    study, at = registration.studies[name], (root or results.ROOT).absolute()
    folder = tables_folder(at, study.experiment_name, study.scale)
    return _last_look(study, registration.rules.looks, at, tuple(_states(folder)))


def _states(folder: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, size in bytes and time of change of each file in a folder."""
    for path in sorted(folder.glob("*")):
        with contextlib.suppress(FileNotFoundError):  # a sweep may be at work there
            facts = path.stat()
            yield path.name, facts.st_size, facts.st_mtime_ns


@functools.lru_cache(maxsize=64)
def _last_look(
    study: RegisteredStudy, looks: tuple[int, ...], root: Path, state: Hashable
) -> Study | None:
    """Return a study at its last complete look; cached while its files are in the same state."""
    for look in reversed(looks):
        if (complete := Study.shipped(study.experiment(look), root)) is not None:
            return complete
    return None


def _verdict(registration: Registration, name: str, decisions: dict[Part, Decision]) -> Verdict:
    parts = registration.parts_of(name)
    made = tuple(decisions[part] for part in parts if part in decisions)
    names = (registration.studies[part.study].experiment_name for part in parts)
    verdict = verdict_of_claim(made) if len(made) == len(parts) > 0 else "not measured"
    return Verdict(registration.claims[name], verdict, made, tuple(dict.fromkeys(names)))


def judge_study(study: Study, claims: Sequence[str] = ()) -> list[Decision]:
    """Decide the registered parts of an experiment on any tables of it.

    These are the registered decisions where the tables are those of the registered study; on other
    seeds, fields or scales the same rules are applied to what there is.

    Args:
        study: the experiment with its tables.
        claims: keys of the claims whose parts to decide; none: all that the experiment decides.
    """
    registration = load_registration()
    experiment = study.experiment
    studies = [
        known for known in registration.studies.values() if known.experiment_name == experiment.name
    ]
    same_scale = [known for known in studies if known.scale == experiment.scale]
    chosen = (same_scale or studies)[:1]
    parts = [
        part
        for part in registration.parts
        if part.study in {known.name for known in chosen} and (not claims or part.claim in claims)
    ]
    return decide_parts(parts, study, registration.rules)


def headline(root: Path | None = None) -> tuple[Summary, dict[str, Decision]]:
    """Combine the registered headline effect over the studies that are complete.

    Returns:
        The mean over studies, and the effect in each study by its name.
    """
    registration = load_registration()
    registered, rules = registration.headline, registration.rules
    effects, decisions = [], {}
    for name in registered.studies:
        study = registered_study(name, root)
        if study is not None:
            evidence = Evidence.from_study(study, rules)
            effects.append(EFFECTS[registered.effect].function(evidence))
            part = Part("headline", name, "headline", registered.effect, False, ())
            decisions[name] = judge(part, effects[-1], rules)
    return combine(effects), decisions


def verdict_list(verdicts: Iterable[Verdict], *kinds: str) -> Markdown:
    """Show the claims with some verdicts as a list, with their effects.

    Args:
        verdicts: as returned by :func:`judge_claims`.
        kinds: of :data:`VERDICTS`.
    """
    from IPython.display import Markdown

    lines = [
        f"* {verdict.claim.statement} ({verdict.claim.where}) {effects_of(verdict)}"
        for verdict in verdicts
        if verdict.verdict in kinds
    ]
    return Markdown("\n".join(lines) or "None.")


def verdict_lines(verdicts: Iterable[Verdict]) -> list[str]:
    """Verdicts for a terminal, one line each, and a last line with their counts."""
    verdicts = list(verdicts)
    width = max(len(v.claim.name) for v in verdicts) + 2
    lines = [f"{v.verdict:<14}{v.claim.name:<{width}}{effects_of(v)}" for v in verdicts]
    return [*lines, summary(verdicts)]


def counts(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """Count the claims by verdict."""
    counter = Counter(verdict.verdict for verdict in verdicts)
    return {verdict: counter[verdict] for verdict in VERDICTS}


def summary(verdicts: Iterable[Verdict]) -> str:
    """Counts in one line, such as "holds: 7, open: 3"."""
    return ", ".join(f"{verdict}: {n}" for verdict, n in counts(verdicts).items() if n)


def effects_of(verdict: Verdict) -> str:
    """Effects of a claim's parts with their intervals and seeds, in one line."""
    if not verdict.decisions:
        return f"no complete tables of {', '.join(verdict.experiments)}"
    if len(verdict.decisions) == 1:
        return interval_words(verdict.decisions[0])
    return "; ".join(
        f"{decision.part.name.replace('_', ' ')} {interval_words(decision)}"
        for decision in verdict.decisions
    )


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
