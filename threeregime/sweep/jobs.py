"""Jobs: train a dense or a pruned fleet, measure it, write its tables.

A job begins by asking whether it is done, goes on from its last checkpoint if there is one, and
ends with its shards in place. It can be killed at any moment.
"""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from threeregime.data import Task, load_task, stream_seed
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Unit
from threeregime.fleet import Engine, Fleet, State, compute_settings, is_out_of_memory
from threeregime.metrics import Curvature, PairMetrics, measure_curvature, measure_pairs
from threeregime.models import net_builder
from threeregime.protocol import Protocol
from threeregime.pruning import Masks, prune_masks
from threeregime.results import atomic_write, shard_path, write_shard
from threeregime.sweep.cost import engine_for
from threeregime.sweep.measured import EpochMeasurements
from threeregime.sweep.plan import DenseJob, Job, JobContext, RetrainJob, dense_checkpoint
from threeregime.sweep.resumable import Progress, ResumableTraining, split_checkpoint
from threeregime.sweep.rows import dense_rows, early_rows, net_rows, pair_rows, provenance
from threeregime.training import Callback, TrainingRun, evaluate_errors, train


def run_job(job: Job, context: JobContext, progress: Progress = lambda cost: None) -> bool:
    """Do a job as far as the deadline allows.

    Args:
        job: the fleet.
        context: folder, device and deadline.
        progress: is told of the work done since it was last called, in net-epochs.

    Returns:
        Whether the job is finished.
    """
    if context.deadline is not None and time.time() > context.deadline:
        return False
    reported = [0.0]

    def count(cost: float) -> None:
        reported.append(cost)
        progress(cost)

    try:
        with compute_settings(context.device):
            return _run_whole(job, context, count)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        line = str(error).splitlines()[0]
    # The halves tell of what is in the checkpoint again.
    progress(-sum(reported))
    # Outside of the handler: the error held on to everything the fleet had.
    return _run_halves(job, context, progress, line)


def _run_whole(job: Job, context: JobContext, progress: Progress) -> bool:
    if isinstance(job, DenseJob):
        return _run_dense(job, context, progress)
    return _run_retraining(job, context, progress)


def _run_halves(job: Job, context: JobContext, progress: Progress, line: str) -> bool:
    """Do a job that did not fit into memory as two, which go on from its last checkpoint."""
    gc.collect()
    if context.device.startswith("cuda"):
        torch.cuda.empty_cache()
    halves = job.halves()
    if not halves:
        raise ThreeRegimeError(
            f"out of memory with the smallest fleet, {job.nets} nets: take a smaller net or batch, "
            f"or a device with more ({line})"
        )
    split_checkpoint(job, halves, context)
    done = [run_job(half, context, progress) for half in halves]
    return all(done)


def _run_dense(job: DenseJob, context: JobContext, progress: Progress) -> bool:
    """Train dense nets, leaving a checkpoint and a row at every stop."""
    shard = shard_path(context.at, "dense", job.fleet)
    if shard.exists() and all(path.exists() for path in job.checkpoints(context.at)):
        progress(job.cost)
        return True
    recipe, task = job.protocol.dense, _load_task(job.protocol, context)
    engine = engine_for(context, job.protocol, recipe, job.nets)
    fleet = Fleet.initial(
        net_builder(job.protocol.net, task),
        [stream_seed("initial", seed) for seed in job.seeds],
        context.device,
        **engine.fleet_options,
    )

    def measure(run: TrainingRun) -> None:
        # Where the number of steps is given, the one stop is after the last of them.
        stops = {run.epochs if recipe.iterations else stop: stop for stop in job.stops}
        if run.epoch in stops:
            stop, measured = stops[run.epoch], resumable.measured
            measured.test_error[stop] = evaluate_errors(fleet, task, train=False)
            measured.train_error[stop] = evaluate_errors(fleet, task, train=True)
            _save_dense(job, context, fleet.state(), stop)

    resumable = ResumableTraining(job, context, progress, measure)
    seeds = [stream_seed("dense", seed) for seed in job.seeds]
    # Given as steps the run has no stops but its end.
    last = None if recipe.iterations else max(job.stops)
    run = train(fleet, task, recipe, seeds, engine=engine, epochs=last, callback=resumable)
    if run.epoch < (last or run.epochs):
        return False
    protocols = {job.protocol.dense_hash: job.protocol.to_dict(defaults=False)}
    named_seeds = {"dense": list(job.seeds)}
    origin = provenance(job, context, engine, protocols, named_seeds, resumable.seconds)
    write_shard(shard, dense_rows(job, context, resumable.measured), origin)
    resumable.path.unlink(missing_ok=True)
    return True


def _save_dense(job: DenseJob, context: JobContext, state: State, epoch: int) -> None:
    for member, seed in enumerate(job.seeds):
        one = {name: tensor[member].contiguous() for name, tensor in state.items()}
        path = dense_checkpoint(context.at, job.protocol, seed, epoch)
        atomic_write(path, functools.partial(save_file, one))


def _run_retraining(job: RetrainJob, context: JobContext, progress: Progress) -> bool:
    """Prune dense checkpoints, retrain the copies, measure nets and pairs."""
    metrics = job.protocol.metrics
    # Pairs come last: a fleet that has them has all it was asked for.
    kinds = ("nets", "early", "pairs") if metrics.early else ("nets", "pairs")
    shards = {kind: shard_path(context.at, kind, job.fleet) for kind in kinds}
    if all(shard.exists() for shard in shards.values()):
        progress(job.cost)
        return True
    files = [_dense_file(unit, context) for unit, _ in job.members]
    if not all(path.exists() for path in files):
        return False  # the deadline stopped its dense run
    retraining = _Retraining.of(job, context, files)
    resumable = ResumableTraining(
        job,
        context,
        progress,
        lambda run: retraining.measure_epoch(run, resumable.measured),
        dict.fromkeys(metrics.early, job.measuring / job.nets),
    )
    run = retraining.train(resumable)
    if run.epoch < run.epochs:
        return False
    resumable.save()
    if not resumable.fits(1.5 * job.last_measuring / job.nets):
        return False
    begin = time.monotonic()
    final = retraining.measure_end(run, resumable.measured)
    resumable.seconds += time.monotonic() - begin
    _write(job, context, retraining.engine, resumable, final, shards)
    resumable.path.unlink(missing_ok=True)
    progress(job.last_measuring)
    return True


@dataclass(frozen=True)
class _FinalMeasurements:
    """Measurements of retrained nets: errors [M], float64; pairs; the Hessian if asked for."""

    test: Tensor
    train: Tensor
    pairs: PairMetrics
    curvature: Curvature | None


@dataclass(frozen=True)
class _Retraining:
    """A fleet of pruned nets about to be retrained.

    Attributes:
        job: who is in it.
        task: the data.
        fleet: the dense nets that the members start from.
        masks: weights that are kept.
        engine: how the fleet is run.
    """

    job: RetrainJob
    task: Task
    fleet: Fleet
    masks: Masks
    engine: Engine

    @classmethod
    def of(cls, job: RetrainJob, context: JobContext, files: list[Path]) -> _Retraining:
        """Load the dense checkpoints, one a member, and find the masks."""
        protocol, task = job.protocol, _load_task(job.protocol, context)
        engine = engine_for(context, protocol, protocol.retraining, job.nets)
        loaded = {path: load_file(path, device=context.device) for path in set(files)}
        names = loaded[files[0]]
        state = {name: torch.stack([loaded[path][name] for path in files]) for name in names}
        fleet = Fleet(
            net_builder(protocol.net, task), state, context.device, **engine.fleet_options
        )
        pruning = [unit.protocol.pruning for unit, _ in job.members]
        masks = prune_masks(
            fleet,
            [p.density for p in pruning],
            [p.method for p in pruning],
            [p.group for p in pruning],
        )
        return cls(job, task, fleet, masks, engine)

    def train(self, callback: Callback) -> TrainingRun:
        """Retrain the fleet, from its checkpoint if there is one."""
        members = self.job.members
        return train(
            self.fleet,
            self.task,
            self.job.protocol.retraining,
            [stream_seed("retrain", unit.dense_seed, seed) for unit, seed in members],
            masks=self.masks,
            bits=[unit.protocol.pruning.bits for unit, _ in members],
            engine=self.engine,
            callback=callback,
        )

    def error_epochs(self, run: TrainingRun) -> range:
        """Return the epochs over which the test error is averaged."""
        return range(
            max(0, run.epochs - self.job.protocol.metrics.error_epochs) + 1, run.epochs + 1
        )

    def measure_epoch(self, run: TrainingRun, measured: EpochMeasurements) -> None:
        """Measure what the protocol asks for after this epoch."""
        metrics, epoch = self.job.protocol.metrics, run.epoch
        if epoch not in self.error_epochs(run) and epoch not in metrics.early:
            return
        with run.compressed():
            measured.test_error[epoch] = evaluate_errors(self.fleet, self.task, train=False)
            if epoch in metrics.early:
                measured.add_pairs(epoch, self._pairs())

    def measure_end(self, run: TrainingRun, measured: EpochMeasurements) -> _FinalMeasurements:
        """Measure the retrained nets and their pairs."""
        metrics = self.job.protocol.metrics
        # In the order of time: a checkpoint hands them back in another, and sums round by order.
        test = torch.stack([measured.test_error[e] for e in self.error_epochs(run)])
        curvature = None
        with run.compressed():
            train_error = evaluate_errors(self.fleet, self.task, train=True).cpu()
            pairs = self._pairs()
            if metrics.hessian:
                curvature = measure_curvature(
                    self.fleet, self.masks, self.task, metrics.hessian, metrics.samples
                )
        return _FinalMeasurements(test.mean(dim=0).cpu(), train_error, pairs, curvature)

    def _pairs(self) -> PairMetrics:
        metrics = self.job.protocol.metrics
        return measure_pairs(self.fleet, self.job.pairs, self.task, metrics.points, metrics.samples)


def _write(
    job: RetrainJob,
    context: JobContext,
    engine: Engine,
    resumable: ResumableTraining,
    final: _FinalMeasurements,
    shards: Mapping[str, Path],
) -> None:
    """Write a retrained fleet's tables, in the order of ``shards``."""
    seeds = {
        "dense": sorted({unit.dense_seed for unit in job.units}),
        "retrain": sorted({seed for _, seed in job.members}),
    }
    protocols = {u.protocol.hash(): u.protocol.to_dict(defaults=False) for u in job.units}
    origin = provenance(job, context, engine, protocols, seeds, resumable.seconds)
    rows = {
        "nets": net_rows(job, context, final.test, final.train, final.curvature),
        "early": early_rows(job, context, resumable.measured),
        "pairs": pair_rows(job, context, final.pairs),
    }
    for kind, shard in shards.items():
        write_shard(shard, rows[kind], origin)


def _load_task(protocol: Protocol, context: JobContext) -> Task:
    return load_task(protocol.data, context.data_dir, context.download, context.device)


def _dense_file(unit: Unit, context: JobContext) -> Path:
    dense = unit.protocol.dense
    return dense_checkpoint(context.at, unit.protocol, unit.dense_seed, dense.stopped)
