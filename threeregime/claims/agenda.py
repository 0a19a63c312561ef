"""The agenda of the registered studies: which looks are missing, in what order, and their cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from threeregime._fields import require
from threeregime.claims.decisions import is_futile
from threeregime.claims.parts import RegisteredStudy
from threeregime.claims.registration import Registration, load_registration
from threeregime.claims.verdicts import judge_study, registered_study
from threeregime.data import DATA_DIR
from threeregime.errors import ThreeRegimeError
from threeregime.results import duration, pack, tables
from threeregime.sweep import estimate_seconds, run_sweep


@dataclass(frozen=True)
class Look:
    """The next look at a registered study.

    Attributes:
        study: the study.
        seeds: dense seeds that the look needs.
        claims: keys of the claims that it may decide.
        seconds: of one core, for what is missing; None if it cannot be known here.
        problem: why it cannot be computed here; empty if it can.
    """

    study: RegisteredStudy
    seeds: int
    claims: tuple[str, ...]
    seconds: float | None
    problem: str = ""

    @property
    def claims_per_hour(self) -> float:
        """Claims that are waiting for an hour of one core: what the order is by."""
        return len(self.claims) / max(self.seconds or 1e9, 1.0) * 3600


def missing_looks(root: Path | None = None, data_dir: Path = DATA_DIR) -> list[Look]:
    """Return the looks that are missing, those of most undecided claims per core-hour first.

    A study is looked at again while one of its parts is open and effects that matter are not
    excluded. Parts that are decided, or closed by the limits of futility, wait for nothing.

    Args:
        root: folder of the tables; None: the shipped ones.
        data_dir: folder of the data sets.
    """
    studies = load_registration().studies.values()
    looks = (_next_look(study, root, data_dir) for study in studies)
    return _in_order(look for look in looks if look is not None)


def _in_order(looks: Iterable[Look]) -> list[Look]:
    return sorted(looks, key=lambda look: -look.claims_per_hour)


def _next_look(study: RegisteredStudy, root: Path | None, data_dir: Path) -> Look | None:
    """Return the next look at a study, with its cost; None if nothing waits for one."""
    waiting = _waiting(load_registration(), study, root)
    if waiting is None:
        return None
    seeds, claims = waiting
    seconds, problem = None, ""
    try:
        seconds = estimate_seconds(study.experiment(seeds), root or tables.ROOT, data_dir)
    except ThreeRegimeError as error:
        problem = str(error)
    return Look(study, seeds, claims, seconds, problem)


def _waiting(
    registration: Registration, study: RegisteredStudy, root: Path | None
) -> tuple[int, tuple[str, ...]] | None:
    """Dense seeds of the next look and the claims that wait for it; None if none does."""
    parts = [part for part in registration.parts if part.study == study.name]
    known, looks = registered_study(study.name, root), registration.rules.looks
    if known is None:
        return looks[0], tuple(dict.fromkeys(part.claim for part in parts))
    seen = len(known.experiment.dense_seeds)
    open_claims = [
        decision.part.claim
        for decision in judge_study(known)
        if decision.verdict == "open" and not is_futile(decision, registration.rules)
    ]
    later = [look for look in looks if look > seen]
    return (later[0], tuple(dict.fromkeys(open_claims))) if later and open_claims else None


def run_looks(
    root: Path | None = None,
    *,
    data_dir: Path = DATA_DIR,
    workers: int = 0,
    deadline: float | None = None,
) -> Iterator[str]:
    """Compute the missing looks one after the other, and yield a line on each.

    After every look its study's verdicts are drawn anew: the next one is where most is open.
    Whatever is computed is kept: another call goes on where this one stopped.

    Args:
        root: folder of the tables; None: the shipped ones.
        data_dir: folder of the data sets.
        workers: processes; 0: one per core.
        deadline: time (as of ``time.time()``) to stop by with everything saved.
    """
    require(workers >= 0, "workers", workers, "0 or more")  # before the looks are timed
    at = root or tables.ROOT
    looks = [look for look in missing_looks(root, data_dir) if not look.problem]
    while looks:
        look, *others = looks
        study = look.study
        yield f"{study.name}: {look.seeds} dense seeds, for {', '.join(look.claims)}"
        whole = run_sweep(
            study.experiment(look.seeds), at, data_dir=data_dir, workers=workers, deadline=deadline
        )
        if not whole or (deadline is not None and time.time() > deadline):
            return
        list(pack(at, [study.experiment_name]))
        later = _next_look(study, root, data_dir)
        looks = _in_order([*others, later] if later else others)


def look_lines(looks: list[Look]) -> Iterator[str]:
    """Lines on the missing looks for a terminal, with their core-hours, and the sum."""
    for look in looks:
        cost = look.problem or duration(look.seconds or 0.0)
        yield f"{look.study.name:<22}{look.seeds:>3} seeds  {cost:<12}  {', '.join(look.claims)}"
    known = sum(look.seconds or 0.0 for look in looks)
    yield f"{len(looks)} looks, {duration(known)} of one core" if looks else "nothing is missing"
