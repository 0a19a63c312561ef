"""The plan of an experiment: the fleets to be trained, their order, and what they cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

from safetensors import SafetensorError, safe_open

from threeregime.experiments import Experiment, Key, Unit
from threeregime.protocol import Protocol
from threeregime.results import DETERMINES, dense_row, finished_dense, finished_nets, tables_folder

MEMBERS = 48
"""Most nets in a fleet: on a CPU there is nothing to gain beyond."""

MEASURE_FORWARDS = 2 / 3
"""Cost of one point of an LMC curve in net-epochs: two passes forward, against three a step."""
HESSIAN_EPOCHS = 3.0
"""Cost of one vector and one iteration of a net's Hessian in net-epochs, on the digits; on larger
data sets it is less, since the Hessian is taken on no more images."""


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class DenseJob:
    """Dense runs of several seeds as one fleet, with a checkpoint at every stop."""

    variant: str
    protocol: Protocol
    base: str
    seeds: tuple[int, ...]
    stops: tuple[int, ...]

    @property
    def fleet(self) -> str:
        """Identity of the fleet: its recipe and who is in it."""
        return _digest(self.protocol.dense_hash, self.seeds, self.stops)

    @property
    def nets(self) -> int:
        """Number of nets."""
        return len(self.seeds)

    @property
    def cost(self) -> float:
        """Work in net-epochs."""
        return float(self.nets * max(self.stops))

    def halves(self) -> tuple[DenseJob, ...]:
        """The same work as two fleets; none where there is but one net."""
        cut = len(self.seeds) // 2
        parts = (self.seeds[:cut], self.seeds[cut:])
        return tuple(replace(self, seeds=part) for part in parts) if cut else ()

    def checkpoints(self, at: Path) -> list[Path]:
        """Every checkpoint that the job leaves."""
        return [
            dense_checkpoint(at, self.protocol, seed, stop)
            for seed in self.seeds
            for stop in self.stops
        ]


@dataclass(frozen=True)
class RetrainJob:
    """Pruned nets retrained as one fleet, and their pairs measured."""

    units: tuple[Unit, ...]

    @property
    def protocol(self) -> Protocol:
        """The protocol whose retraining, net, data and metrics all units share."""
        return self.units[0].protocol

    @property
    def members(self) -> list[tuple[Unit, int]]:
        """(unit, retraining seed) of every net, in the fleet's order."""
        return [(unit, seed) for unit in self.units for seed in unit.retrain_seeds]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Members that are compared: all pairs of copies of the same pruned net."""
        found, start = [], 0
        for unit in self.units:
            copies = range(start, start + len(unit.retrain_seeds))
            found += list(combinations(copies, 2))
            start = copies.stop
        return found

    @property
    def fleet(self) -> str:
        """Identity of the fleet: its recipe and who is in it."""
        return _digest([unit.key for unit in self.units])

    @property
    def nets(self) -> int:
        """Number of nets."""
        return len(self.members)

    @property
    def measuring(self) -> float:
        """Work of measuring all pairs once, in net-epochs."""
        return len(self.pairs) * self.protocol.metrics.points * MEASURE_FORWARDS

    @property
    def last_measuring(self) -> float:
        """Work of measuring pairs and nets once retraining has ended, in net-epochs."""
        return self.measuring + self.nets * self.protocol.metrics.hessian * HESSIAN_EPOCHS

    @property
    def cost(self) -> float:
        """Work in net-epochs, all measuring included."""
        early = len(self.protocol.metrics.early) * self.measuring
        return self.nets * self.protocol.retraining.epochs + early + self.last_measuring

    def halves(self) -> tuple[RetrainJob, ...]:
        """The same work as two fleets; none where the copies of one pruned net are left."""
        cut = len(self.units) // 2
        return (RetrainJob(self.units[:cut]), RetrainJob(self.units[cut:])) if cut else ()


Job = DenseJob | RetrainJob


def state_folder(at: Path) -> Path:
    """Where dense checkpoints and half-trained fleets lie."""
    return at / "state"


def fleet_checkpoint(at: Path, job: Job) -> Path:
    """File of a fleet in training."""
    return state_folder(at) / f"fleet-{job.fleet}.safetensors"


def dense_checkpoint(at: Path, protocol: Protocol, seed: int, stop: int) -> Path:
    """File of one dense net, stopped after ``stop`` epochs."""
    return state_folder(at) / f"dense-{protocol.dense_hash}-{seed}-{stop}.safetensors"


@dataclass(frozen=True)
class Plan:
    """The jobs of an experiment that are not finished, dense runs first."""

    experiment: Experiment
    at: Path
    dense: tuple[DenseJob, ...]
    retrain: tuple[RetrainJob, ...]
    finished: int

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in the order in which they are to be done."""
        return (*self.dense, *self.retrain)

    @property
    def cost(self) -> float:
        """Work left in net-epochs."""
        return sum(job.cost for job in self.jobs)


def make_plan(
    experiment: Experiment,
    root: Path,
    members: int = MEMBERS,
    also: Sequence[Path] = (),
    fits: Callable[[Protocol], int] | None = None,
) -> Plan:
    """Plan what is left of an experiment.

    Fleets are packed from the whole experiment, finished or not: a sweep that was killed plans the
    same fleets again, so that its numbers do not depend on where it was interrupted. Fleets that
    were begun under another plan, of other sizes, go on as they are.

    Args:
        experiment: what is wanted.
        root: folder whose results count as finished, and where new ones go.
        members: most nets in a fleet.
        also: further folders whose results count as finished.
        fits: how many nets of a protocol the device has memory for; None: any.
    """
    at = tables_folder(root, experiment.name, experiment.scale)
    units = experiment.units()
    wanted = _wanted(experiment, (root, *also))
    if not wanted:
        return Plan(experiment, at, (), (), len(units))
    open_ = {unit.key for unit in wanted}
    packed = _jobs(_pack(units, members, fits), open_)
    begun = _begun(at, wanted, {job.fleet for job in packed})
    taken = {unit.key for job in begun for unit in job.units}
    retrain = (*begun, *_jobs((job.units for job in packed), open_ - taken))
    recorded = finished_dense(experiment, root, *also)
    # With all stops of the grid, whichever of its cells are wanted now.
    dense = tuple(
        _dense_jobs(experiment, experiment.with_cells(None).units(), wanted, recorded, at)
    )
    return Plan(experiment, at, dense, retrain, len(units) - len(wanted))


def is_complete(experiment: Experiment, *roots: Path) -> bool:
    """Whether every unit of an experiment is finished, in one folder or another."""
    return not _wanted(experiment, roots)


def _wanted(experiment: Experiment, roots: Sequence[Path]) -> list[Unit]:
    """Units that are not finished, in the order in which they are to be done."""
    finished = finished_nets(experiment, *roots)

    def is_done(unit: Unit) -> bool:
        cell, seed, copies = unit.key
        return all((cell, seed, copy) in finished for copy in copies)

    return [unit for unit in experiment.units() if not is_done(unit)]


def _jobs(fleets: Iterable[Sequence[Unit]], open_: Set[Key]) -> list[RetrainJob]:
    """Jobs for what is open of fleets."""
    left = (tuple(unit for unit in fleet if unit.key in open_) for fleet in fleets)
    return [RetrainJob(fleet) for fleet in left if fleet]


def _begun(at: Path, wanted: Sequence[Unit], planned: Set[str]) -> list[RetrainJob]:
    """Half-trained fleets of another plan, all of whose members are still wanted."""
    open_ = {unit.key: unit for unit in wanted}
    found = []
    for path in sorted(state_folder(at).glob("fleet-*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get("units", "[]")
        except SafetensorError:
            continue  # if its fleet is in the plan, who goes on with it will say so
        keys: list[Key] = [(cell, seed, tuple(seeds)) for cell, seed, seeds in json.loads(text)]
        if path.stem.removeprefix("fleet-") not in planned and keys and set(keys) <= open_.keys():
            found.append(RetrainJob(tuple(open_.pop(key) for key in keys)))
    return found


def group_by_retraining(units: Iterable[Unit]) -> list[list[Unit]]:
    """Units whose retrainings can share a fleet, group by group."""
    groups: dict[object, list[Unit]] = defaultdict(list)
    for unit in units:
        p = unit.protocol
        groups[p.data, p.net, p.retraining, p.metrics].append(unit)
    return list(groups.values())


def _pack(
    units: Sequence[Unit], members: int, fits: Callable[[Protocol], int] | None
) -> Iterable[Sequence[Unit]]:
    """Split units into fleets of nearly equal size, each of one net, data set and retraining."""
    for group in group_by_retraining(units):
        most = min(members, fits(group[0].protocol)) if fits else members
        together = max(1, most // len(group[0].retrain_seeds))
        fleets = math.ceil(len(group) / together)
        bounds = [round(i * len(group) / fleets) for i in range(fleets + 1)]
        yield from (group[a:b] for a, b in pairwise(bounds))


def _dense_jobs(
    experiment: Experiment,
    units: Sequence[Unit],
    needed: Sequence[Unit],
    recorded: Set[tuple[object, ...]],
    at: Path,
) -> Iterable[DenseJob]:
    """Dense runs of which a needed checkpoint is missing, with all stops of the experiment.

    Their rows are written last: as long as a run has none its whole fleet is trained to the end,
    even where some of its checkpoints are there already.
    """
    missing: dict[str, list[int]] = defaultdict(list)
    for unit in needed:
        path = dense_checkpoint(at, unit.protocol, unit.dense_seed, unit.protocol.dense.stopped)
        if not path.exists() or dense_row(experiment, unit) not in recorded:
            missing[unit.protocol.dense_hash].append(unit.dense_seed)
    for dense_hash, seeds in missing.items():
        family = [u for u in units if u.protocol.dense_hash == dense_hash]
        protocol = family[0].protocol
        yield DenseJob(
            variant=family[0].variant,
            protocol=protocol.replace("dense.stop", None),
            base=experiment.base_hash(protocol, *DETERMINES["dense"]),
            seeds=tuple(dict.fromkeys(seeds)),
            stops=tuple(sorted({u.protocol.dense.stopped for u in family})),
        )


@dataclass(frozen=True)
class JobContext:
    """Where and how long jobs run; travels to workers."""

    experiment: Experiment
    at: Path
    data_dir: Path
    download: bool = False
    device: str = "cpu"
    deadline: float | None = None
    epoch_seconds: float = 0.0  # what an epoch is thought to take, until one has been timed
    engine: str = "auto"  # or the name of one
