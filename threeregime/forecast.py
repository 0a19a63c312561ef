"""A rough forecast of what an experiment costs here, from a handful of steps timed once.

It is good for a factor of two or so. ``threeregime sweep --dry-run`` times every kind of fleet that
there is, with the engine that it would run in.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from threeregime import catalogue
from threeregime.catalogue import Experiment, Unit
from threeregime.device import device_name, kept
from threeregime.loader import outline
from threeregime.models import NETS
from threeregime.protocol import Dense, Protocol, Training
from threeregime.speed import Speed, speeds, work
from threeregime.sweep import MEMBERS, DenseJob, RetrainJob, alike

BESIDE = 1.8
"""How many times as long as its steps alone a sweep takes on a machine that has nothing else to do:
errors are taken, batches drawn, and its processes share memory and caches. From the durations that
the tables of figure_02 and figure_05 record."""
ENGINE = (
    "fleet",
    "forecast",
    "graphs",
    "mechanisms",
    "models",
    "optimizers",
    "speed",
    "stacked",
    "training",
    "transformer",
)
"""Modules whose code decides how long a step takes."""


def everything(device: str, workers: int) -> dict[str, dict[str, float]]:
    """Seconds of every experiment at each of its scales, by name and scale.

    They are kept, and made anew when the device, the code that trains or a protocol has changed.
    """
    here = Path(__file__).parent
    files = [*(here / f"{name}.py" for name in ENGINE), *sorted(here.glob("protocols/**/*.toml"))]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def made() -> dict[str, dict[str, float]]:
        print(f"threeregime: timing this {device}, once, some seconds", file=sys.stderr)
        known = speeds(device)
        return {
            name: {
                scale: seconds(catalogue.experiment(name, scale), known, workers)
                for scale in catalogue.scales(name)
            }
            for name in catalogue.names()
        }

    return kept("forecast", (device_name(device), torch.__version__, digest, workers), made)


def seconds(experiment: Experiment, known: Mapping[str, Speed], workers: int) -> float:
    """Seconds of computing all of an experiment anew, as ``threeregime sweep`` would.

    Args:
        experiment: at one scale.
        known: speeds on the device by what a net reads.
        workers: processes that share the work, each as fast as one alone.
    """
    speed = known[NETS[experiment.protocol.net.name].reads]
    cells = experiment.cells()
    total, fleets = 0.0, 0
    for dense in _dense_jobs(experiment, cells):
        epoch = _epoch(dense.protocol, dense.protocol.dense, dense.nets, speed)
        total += dense.cost / dense.nets * epoch
    for group in alike(cells):
        # They differ in what they begin with, not in what they cost.
        job, count = RetrainJob(tuple(group[:1])), len(group) * len(experiment.dense_seeds)
        together = min(count * job.nets, MEMBERS)
        epoch = _epoch(job.protocol, job.protocol.retraining, together, speed)
        total += count * job.cost / together * epoch
        fleets += math.ceil(count * job.nets / MEMBERS)
    return BESIDE * total / min(workers, fleets)


def _epoch(protocol: Protocol, training: Training, members: int, speed: Speed) -> float:
    """Seconds of an epoch of a fleet; of the schedule, where the number of steps is given."""
    per_epoch = outline(protocol.data).count // training.batch_size
    # Sharpness-aware steps compute their gradients twice.
    times = 2 if isinstance(training, Dense) and training.rho else 1
    step = times * speed.step(work(protocol.net, protocol.data), training.batch_size, members)
    return step * training.steps(per_epoch) / training.epochs


def _dense_jobs(experiment: Experiment, cells: Iterable[Unit]) -> list[DenseJob]:
    """The dense runs, each as one fleet of all seeds."""
    runs: dict[object, list[Unit]] = defaultdict(list)
    for unit in cells:
        p = unit.protocol
        runs[p.data, p.net, replace(p.dense, stop=None)].append(unit)
    return [
        DenseJob(
            variant=units[0].variant,
            protocol=units[0].protocol,
            base="",
            seeds=experiment.dense_seeds,
            stops=tuple(sorted({unit.protocol.dense.stopped for unit in units})),
        )
        for units in runs.values()
    ]
