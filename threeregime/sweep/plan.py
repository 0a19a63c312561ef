"""The plan of an experiment: the fleets to train, their order, and their cost."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path

from threeregime.data import Task, load_task
from threeregime.experiments import Experiment, Key, Unit
from threeregime.protocol import Protocol, Training
from threeregime.results import DETERMINES, dense_row, finished_dense, finished_nets, tables_folder
from threeregime.sweep.checkpoints import is_intact, read_about

CPU_MEMBERS, GPU_MEMBERS = 48, 384
"""Most nets in a fleet by default. Larger fleets are no faster on a CPU; a GPU wants hundreds."""

MEASURE_FORWARDS = 2 / 3
"""Cost of one point of an LMC curve in net-epochs: two forward passes, against three per step."""
HESSIAN_EPOCHS = 3.0
"""Cost of one vector and one iteration of a net's Hessian in net-epochs on the digits; less on
larger data sets, since the number of images for the Hessian is fixed."""


CLAIM = "claim-"
"""Beginning of the names of claims."""


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

    section = "dense"

    @property
    def training(self) -> Training:
        """Recipe of the runs."""
        return self.protocol.dense

    @property
    def fleet(self) -> str:
        """Digest of the fleet: its recipe and its members."""
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
        """Return the same work as two fleets; empty for a single net."""
        middle = len(self.seeds) // 2
        parts = (self.seeds[:middle], self.seeds[middle:])
        return tuple(replace(self, seeds=part) for part in parts) if middle else ()

    def claims(self, folder: Path) -> list[Path]:
        """Return the claims that a process holds while it runs the job, one for each dense run."""
        at, run = state_folder(folder), self.protocol.dense_hash
        return [at / f"{CLAIM}{run}-{seed}" for seed in self.seeds]

    def checkpoints(self, folder: Path) -> list[Path]:
        """Return the paths of all checkpoints that the job leaves."""
        return [
            dense_checkpoint(folder, self.protocol, seed, stop)
            for seed in self.seeds
            for stop in self.stops
        ]


@dataclass(frozen=True)
class RetrainJob:
    """Pruned nets to retrain as one fleet, with the measurements of their pairs."""

    units: tuple[Unit, ...]

    section = "retraining"

    @property
    def protocol(self) -> Protocol:
        """A protocol with the retraining, net, data and metrics that all units share."""
        return self.units[0].protocol

    @property
    def training(self) -> Training:
        """Recipe of the retraining."""
        return self.protocol.retraining

    @property
    def members(self) -> list[tuple[Unit, int]]:
        """(unit, retraining seed) of every net, in the fleet's order."""
        return [(unit, seed) for unit in self.units for seed in unit.retrain_seeds]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Members to compare: all pairs of copies of the same pruned net."""
        pairs, start = [], 0
        for unit in self.units:
            copies = range(start, start + len(unit.retrain_seeds))
            pairs += list(combinations(copies, 2))
            start = copies.stop
        return pairs

    @property
    def fleet(self) -> str:
        """Digest of the fleet: its recipe and its members."""
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
        """Work of measuring pairs and nets after retraining, in net-epochs."""
        return self.measuring + self.nets * self.protocol.metrics.hessian * HESSIAN_EPOCHS

    @property
    def cost(self) -> float:
        """Work in net-epochs, measuring included."""
        early = len(self.protocol.metrics.early) * self.measuring
        return self.nets * self.protocol.retraining.epochs + early + self.last_measuring

    def claims(self, folder: Path) -> list[Path]:
        """Return the claims that a process holds while it runs the job, one for each unit.

        So fleets of other sizes, in which some of the units are, exclude each other.
        """
        at = state_folder(folder)
        return [at / f"{CLAIM}{_digest(unit.key)}" for unit in self.units]

    def halves(self) -> tuple[RetrainJob, ...]:
        """Return the same work as two fleets; empty for the copies of a single pruned net."""
        middle = len(self.units) // 2
        parts = (self.units[:middle], self.units[middle:])
        return tuple(map(RetrainJob, parts)) if middle else ()


Job = DenseJob | RetrainJob


def state_folder(folder: Path) -> Path:
    """Return the folder of the checkpoints, below that of an experiment's tables."""
    return folder / "state"


def fleet_checkpoint(folder: Path, job: Job) -> Path:
    """Return the checkpoint of a fleet in training."""
    return state_folder(folder) / f"fleet-{job.fleet}.safetensors"


def dense_checkpoint(folder: Path, protocol: Protocol, seed: int, stop: int) -> Path:
    """Return the checkpoint of one dense net after ``stop`` epochs."""
    return state_folder(folder) / f"dense-{protocol.dense_hash}-{seed}-{stop}.safetensors"


def unit_checkpoint(folder: Path, unit: Unit) -> Path:
    """Return the dense checkpoint that a unit starts from."""
    return dense_checkpoint(folder, unit.protocol, unit.dense_seed, unit.protocol.dense.stopped)


@dataclass(frozen=True)
class JobContext:
    """Where and until when jobs of an experiment run; workers receive it with each job.

    Attributes:
        folder: folder of the experiment's tables.
        deadline: time (as of ``time.time()``) to stop by; None: no limit.
        epoch_seconds: estimate of an epoch's duration until one has been timed.
        data_dir, download, device, engine: as of :func:`threeregime.sweep.run_sweep`.
    """

    experiment: Experiment
    folder: Path
    data_dir: Path
    download: bool = False
    device: str = "cpu"
    deadline: float | None = None
    epoch_seconds: float = 0.0
    engine: str = "auto"

    def load_task(self, protocol: Protocol) -> Task:
        """Return the task of a protocol, on the device."""
        return load_task(protocol.data, self.data_dir, self.download, self.device)


@dataclass(frozen=True)
class Plan:
    """The unfinished jobs of an experiment, whose tables are in ``folder``."""

    experiment: Experiment
    folder: Path
    dense: tuple[DenseJob, ...]
    retrain: tuple[RetrainJob, ...]

    @property
    def jobs(self) -> tuple[Job, ...]:
        """All jobs in the order to run them in, dense runs first."""
        return (*self.dense, *self.retrain)

    @property
    def cost(self) -> float:
        """Remaining work in net-epochs."""
        return sum(job.cost for job in self.jobs)


def make_plan(
    experiment: Experiment,
    root: Path,
    members: int = CPU_MEMBERS,
    other_roots: Sequence[Path] = (),
    max_members: Callable[[Protocol], int] | None = None,
) -> Plan:
    """Plan the remaining work of an experiment.

    Fleets are packed from the whole experiment, finished or not: a sweep that was killed plans the
    same fleets again, so that its numbers do not depend on when it was interrupted. Checkpoints of
    fleets of other sizes, from another plan, are resumed as they are.

    Args:
        experiment: cells and seeds.
        root: folder of the results.
        members: maximum number of nets in a fleet.
        other_roots: further folders whose results count as finished.
        max_members: how many nets of a protocol fit into memory; None: any number.
    """
    folder = tables_folder(root, experiment.name, experiment.scale)
    unfinished = _unfinished_units(experiment, (root, *other_roots))
    rows = _missing_dense(experiment, (root, *other_roots))
    if not unfinished and not rows:
        return Plan(experiment, folder, (), ())
    keys = {unit.key for unit in unfinished}
    packed = _retrain_jobs(_pack(experiment.units(), members, max_members), keys)
    resumed = _resumed_jobs(folder, unfinished, {job.fleet for job in packed})
    keys -= {unit.key for job in resumed for unit in job.units}
    retrain = (*resumed, *_retrain_jobs((job.units for job in packed), keys))
    # Dense runs get the stops of the whole grid, even if only some of its cells are selected.
    all_units = experiment.with_cells(None).units()
    starts = {unit_checkpoint(folder, unit) for unit in unfinished}
    intact = {path for path in starts if is_intact(path)}
    lacking = [unit for unit in unfinished if unit_checkpoint(folder, unit) not in intact]
    dense = tuple(_dense_jobs(experiment, all_units, [*rows, *lacking]))
    return Plan(experiment, folder, dense, retrain)


def is_complete(experiment: Experiment, *roots: Path) -> bool:
    """Return whether every unit of an experiment, and its dense run, is in one of the folders."""
    return not _unfinished_units(experiment, roots) and not _missing_dense(experiment, roots)


def _unfinished_units(experiment: Experiment, roots: Sequence[Path]) -> list[Unit]:
    """Return the units without results, in the order to compute them in."""
    finished = finished_nets(experiment, *roots)
    return [unit for unit in experiment.units() if not is_finished(unit.key, finished)]


def is_finished(key: Key, finished: Set[tuple[str, int, int]]) -> bool:
    """Return whether all nets of a unit are among those of :func:`results.finished_nets`."""
    cell, dense_seed, retrain_seeds = key
    return all((cell, dense_seed, seed) in finished for seed in retrain_seeds)


def _missing_dense(experiment: Experiment, roots: Sequence[Path]) -> list[Unit]:
    """Return the units whose dense run has no row in the folders, whether finished or not."""
    recorded = finished_dense(experiment, *roots)
    # The row of a cell is the same for all seeds, apart from the seed.
    rows = {cell.protocol: dense_row(experiment, cell) for cell in experiment.cells()}

    def is_recorded(unit: Unit) -> bool:
        base, _, *place = rows[unit.protocol]
        return (base, unit.dense_seed, *place) in recorded

    return [unit for unit in experiment.units() if not is_recorded(unit)]


def _retrain_jobs(fleets: Iterable[Sequence[Unit]], keys: Set[Key]) -> list[RetrainJob]:
    """Return the jobs for those units of the fleets that have one of the keys."""
    parts = (tuple(unit for unit in fleet if unit.key in keys) for fleet in fleets)
    return [RetrainJob(part) for part in parts if part]


def _resumed_jobs(folder: Path, unfinished: Sequence[Unit], planned: Set[str]) -> list[RetrainJob]:
    """Return the jobs of another plan that have a checkpoint and only unfinished units."""
    units = {unit.key: unit for unit in unfinished}
    jobs = []
    for path in sorted(state_folder(folder).glob("fleet-*.safetensors")):
        keys = checkpoint_units(path)
        if path.stem.removeprefix("fleet-") not in planned and keys and set(keys) <= units.keys():
            jobs.append(RetrainJob(tuple(units.pop(key) for key in keys)))
    return jobs


def checkpoint_units(path: Path) -> list[Key]:
    """Return the units of the fleet of a checkpoint; empty for a dense one, or a damaged file."""
    try:
        units = read_about(path).get("units", [])
        return [(str(cell), int(seed), tuple(map(int, seeds))) for cell, seed, seeds in units]
    except (TypeError, ValueError):
        return []


def _pack(
    units: Sequence[Unit], members: int, max_members: Callable[[Protocol], int] | None
) -> Iterable[Sequence[Unit]]:
    """Split units into fleets of nearly equal size, each of one net, data set and retraining."""
    groups: dict[object, list[Unit]] = defaultdict(list)
    for unit in units:
        p = unit.protocol
        groups[p.data, p.net, p.retraining, p.metrics].append(unit)
    for group in groups.values():
        nets = min(members, max_members(group[0].protocol)) if max_members else members
        units_per_fleet = max(1, nets // len(group[0].retrain_seeds))
        fleets = math.ceil(len(group) / units_per_fleet)
        bounds = [round(i * len(group) / fleets) for i in range(fleets + 1)]
        yield from (group[a:b] for a, b in pairwise(bounds))


def _dense_jobs(
    experiment: Experiment, units: Sequence[Unit], lacking: Sequence[Unit]
) -> Iterable[DenseJob]:
    """Yield the dense runs of units that lack a checkpoint or a row, with all stops of ``units``.

    Rows are written last: a run without one is trained to its end with its whole fleet, even if
    some of its checkpoints exist.
    """
    # In the order of units, on which the members of a fleet and its name depend.
    keys = {unit.key for unit in lacking}
    missing: dict[str, list[int]] = defaultdict(list)
    for unit in experiment.units():
        if unit.key in keys:
            missing[unit.protocol.dense_hash].append(unit.dense_seed)
    for dense_hash, seeds in missing.items():
        family = [unit for unit in units if unit.protocol.dense_hash == dense_hash]
        protocol = family[0].protocol
        yield DenseJob(
            variant=family[0].variant,
            protocol=protocol.replace("dense.stop", None),
            base=experiment.base_hash(protocol, *DETERMINES["dense"]),
            seeds=tuple(dict.fromkeys(seeds)),
            stops=tuple(sorted({unit.protocol.dense.stopped for unit in family})),
        )
