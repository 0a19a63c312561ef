"""Doing one job: train a dense or a pruned fleet, measure it, write its tables.

A job begins by asking whether it is done, goes on from its last checkpoint if there is one, and
ends with its shards in place. It can be killed at any moment.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from threeregime.data.registry import resident
from threeregime.data.task import Task, stream
from threeregime.errors import ThreeRegimeError
from threeregime.experiments.experiment import Unit
from threeregime.fleet.device import out_of_memory, prepare
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet, State
from threeregime.metrics.hessian import Curvature, curvature
from threeregime.metrics.pairs import PairMetrics, measure_pairs
from threeregime.models.registry import builder
from threeregime.protocol import Protocol, Training
from threeregime.pruning.magnitude import Masks, masks
from threeregime.results import atomic_write, shard_path, write_shard
from threeregime.sweep.cost import engine_for
from threeregime.sweep.plan import DenseJob, Job, Place, RetrainJob, dense_checkpoint
from threeregime.sweep.resumable import Advance, Trainer, split_checkpoint
from threeregime.sweep.rows import (
    dense_rows,
    early_extra,
    early_rows,
    extra,
    net_rows,
    pair_rows,
    provenance,
)
from threeregime.training.run import Run, errors


def perform(job: Job, place: Place, advance: Advance = lambda cost: None) -> bool:
    """Do a job as far as the deadline allows; return whether it is finished.

    Args:
        job: the fleet.
        place: folder, device and deadline.
        advance: told of the work done since it was last called, in net-epochs.
    """
    prepare(place.device)
    if place.deadline is not None and time.time() > place.deadline:
        return False
    told = [0.0]

    def counted(cost: float) -> None:
        told.append(cost)
        advance(cost)

    try:
        return _whole(job, place, counted)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        line = str(error).splitlines()[0]
    # The halves tell of what is in the checkpoint again.
    advance(-sum(told))
    # Outside of the handler: the error held on to everything the fleet had.
    return _in_halves(job, place, advance, line)


def _whole(job: Job, place: Place, advance: Advance) -> bool:
    if isinstance(job, DenseJob):
        return _dense(job, place, advance)
    return _retrain(job, place, advance)


def _in_halves(job: Job, place: Place, advance: Advance, line: str) -> bool:
    """Do a job that did not fit into memory as two, which go on from its last checkpoint."""
    gc.collect()
    if place.device.startswith("cuda"):
        torch.cuda.empty_cache()
    halves = job.halves()
    if not halves:
        raise ThreeRegimeError(
            f"out of memory with the smallest fleet, {job.nets} nets: take a smaller net or batch, "
            f"or a device with more ({line})"
        )
    split_checkpoint(job, halves, place)
    done = [perform(half, place, advance) for half in halves]
    return all(done)


def _data(protocol: Protocol, place: Place) -> Task:
    return resident(protocol.data, place.data_dir, place.download, place.device)


def _run(
    fleet: Fleet,
    data: Task,
    protocol: Protocol,
    training: Training,
    seeds: list[int],
    engine: Engine,
) -> Run:
    """A fleet in training on its members' own streams, nothing pruned yet."""
    loader = data.loader(seeds, training.batch_size, protocol.data)
    return Run(fleet, loader, training, engine)


def _dense(job: DenseJob, place: Place, advance: Advance) -> bool:
    """Train dense nets, leaving a checkpoint and a row at every stop."""
    shard = shard_path(place.at, "dense", job.fleet)
    if shard.exists() and all(path.exists() for path in job.checkpoints(place.at)):
        advance(job.cost)
        return True
    data = _data(job.protocol, place)
    engine = engine_for(place, job.protocol, job.protocol.dense, job.nets)
    fleet = Fleet.initial(
        builder(job.protocol.net, data),
        [stream("initial", seed) for seed in job.seeds],
        place.device,
        **engine.of_fleet,
    )
    streams = [stream("dense", seed) for seed in job.seeds]
    run = _run(fleet, data, job.protocol, job.protocol.dense, streams, engine)
    trainer = Trainer(run, job, place, advance)
    # Where the number of steps is given, the one stop is after the last of them.
    stops = {run.epochs if job.protocol.dense.iterations else s: s for s in job.stops}

    def after_epoch(epoch: int) -> None:
        if epoch in stops:
            for train in (False, True):
                trainer.extra[extra(train, stops[epoch])] = errors(fleet, data, train)
            _save_dense(job, place, fleet.state(), stops[epoch])

    if not trainer.train(max(stops), after_epoch):
        return False
    protocols = {job.protocol.dense_hash: job.protocol.to_dict(defaults=False)}
    origin = provenance(job, place, engine, protocols, {"dense": list(job.seeds)}, trainer.seconds)
    write_shard(shard, dense_rows(job, place, trainer.extra), origin)
    trainer.path.unlink(missing_ok=True)
    return True


def _save_dense(job: DenseJob, place: Place, state: State, epoch: int) -> None:
    for member, seed in enumerate(job.seeds):
        one = {name: tensor[member].contiguous() for name, tensor in state.items()}
        path = dense_checkpoint(place.at, job.protocol, seed, epoch)
        atomic_write(path, functools.partial(save_file, one))


def _retrain(job: RetrainJob, place: Place, advance: Advance) -> bool:
    """Prune dense checkpoints, retrain the copies, measure nets and pairs."""
    # Pairs come last: a fleet that has them has all it was asked for.
    kinds = ("nets", "early", "pairs") if job.protocol.metrics.early else ("nets", "pairs")
    shards = {kind: shard_path(place.at, kind, job.fleet) for kind in kinds}
    if all(shard.exists() for shard in shards.values()):
        advance(job.cost)
        return True
    files = [_dense_file(unit, place) for unit, _ in job.members]
    if not all(path.exists() for path in files):
        return False  # the deadline stopped its dense run
    protocol, data = job.protocol, _data(job.protocol, place)
    retraining, metrics = protocol.retraining, protocol.metrics
    engine = engine_for(place, protocol, retraining, job.nets)
    fleet, kept = _prune(job, place, data, files, engine)
    streams = [stream("retrain", unit.dense_seed, seed) for unit, seed in job.members]
    run = _run(fleet, data, protocol, retraining, streams, engine)
    run.prune(kept)
    run.quantize([unit.protocol.pruning.bits for unit, _ in job.members])
    trainer = Trainer(
        run, job, place, advance, dict.fromkeys(metrics.early, job.measuring / job.nets)
    )

    counted = range(max(0, run.epochs - metrics.error_epochs) + 1, run.epochs + 1)

    def after_epoch(epoch: int) -> None:
        if epoch not in counted and epoch not in metrics.early:
            return
        with run.compressed():
            trainer.extra[extra(False, epoch)] = errors(fleet, data, False)
            if epoch in metrics.early:
                pairs = measure_pairs(fleet, job.pairs, data, metrics.points, metrics.samples)
                trainer.extra |= early_extra(pairs, epoch)

    if not trainer.train(run.epochs, after_epoch):
        return False
    trainer.save()
    if not trainer.fits(1.5 * job.last_measuring / job.nets):
        return False
    measured = _measure(fleet, kept, job, data, trainer, counted)
    _write(job, place, engine, trainer, measured, shards)
    trainer.path.unlink(missing_ok=True)
    advance(job.last_measuring)
    return True


@dataclass(frozen=True)
class _Measured:
    """What is known of retrained nets: errors [M], float64; pairs; the Hessian if asked for."""

    test: Tensor
    train: Tensor
    pairs: PairMetrics
    local: Curvature | None


def _measure(
    fleet: Fleet, kept: Masks, job: RetrainJob, data: Task, trainer: Trainer, counted: Iterable[int]
) -> _Measured:
    """Measure retrained nets and their pairs; the time it takes is the trainer's.

    Args:
        counted: epochs over which the test error is averaged; the trainer has each one's.
    """
    begin = time.monotonic()
    metrics = job.protocol.metrics
    # In the order of time: a checkpoint hands them back in another, and sums round by order.
    test = torch.stack([trainer.extra[extra(False, e)] for e in counted]).mean(dim=0).cpu()
    local = None
    with trainer.run.compressed():
        train = errors(fleet, data, True).cpu()
        pairs = measure_pairs(fleet, job.pairs, data, metrics.points, metrics.samples)
        if metrics.hessian:
            local = curvature(fleet, kept, data, metrics.hessian, metrics.samples)
    trainer.seconds += time.monotonic() - begin
    return _Measured(test, train, pairs, local)


def _write(
    job: RetrainJob,
    place: Place,
    engine: Engine,
    trainer: Trainer,
    measured: _Measured,
    shards: Mapping[str, Path],
) -> None:
    """Write a retrained fleet's tables, in the order of ``shards``."""
    seeds = {
        "dense": sorted({unit.dense_seed for unit in job.units}),
        "retrain": sorted({seed for _, seed in job.members}),
    }
    protocols = {u.protocol.hash(): u.protocol.to_dict(defaults=False) for u in job.units}
    origin = provenance(job, place, engine, protocols, seeds, trainer.seconds)
    tables = {
        "nets": net_rows(job, place, measured.test, measured.train, measured.local),
        "early": early_rows(job, place, trainer.extra),
        "pairs": pair_rows(job, place, measured.pairs),
    }
    for kind, shard in shards.items():
        write_shard(shard, tables[kind], origin)


def _dense_file(unit: Unit, place: Place) -> Path:
    return dense_checkpoint(place.at, unit.protocol, unit.dense_seed, unit.protocol.dense.stopped)


def _prune(
    job: RetrainJob, place: Place, data: Task, files: list[Path], engine: Engine
) -> tuple[Fleet, Masks]:
    """The fleet of dense nets that the members start from, and their masks."""
    loaded = {path: load_file(path, device=place.device) for path in set(files)}
    state = {name: torch.stack([loaded[path][name] for path in files]) for name in loaded[files[0]]}
    fleet = Fleet(
        builder(job.protocol.net, data),
        state,
        place.device,
        **engine.of_fleet,
    )
    pruning = [unit.protocol.pruning for unit, _ in job.members]
    weights = {name: state[name] for name in fleet.prunable()}
    methods, densities = [p.method for p in pruning], [p.density for p in pruning]
    return fleet, masks(weights, methods, densities, [p.group for p in pruning])
