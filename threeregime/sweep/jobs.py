"""Jobs: train a dense or a pruned fleet, measure it, and write its tables.

A job may be killed at any moment: it returns at once if its tables exist, and otherwise resumes
from its last checkpoint. While it runs, its process holds the claims of its nets, so that no other
process computes them.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from threeregime._files import HeldError, claims
from threeregime.data import Task, stream_seed
from threeregime.errors import ThreeRegimeError, first_line
from threeregime.fleet import Engine, Fleet, State, compute_settings, is_out_of_memory
from threeregime.metrics import PairMetrics, measure_curvature, measure_pairs
from threeregime.models import net_builder
from threeregime.pruning import Masks, prune_masks
from threeregime.results import finished_nets, write_shard
from threeregime.results.provenance import Record
from threeregime.sweep.checkpoints import (
    DamagedCheckpoint,
    EpochMeasurements,
    read_state,
    set_aside,
    write_state,
)
from threeregime.sweep.cost import engine_for
from threeregime.sweep.plan import (
    DenseJob,
    Job,
    JobContext,
    RetrainJob,
    dense_checkpoint,
    fleet_checkpoint,
    is_finished,
    unit_checkpoint,
)
from threeregime.sweep.resumable import Progress, ResumableTraining, split_checkpoint
from threeregime.sweep.rows import (
    completed,
    dense_rows,
    early_rows,
    net_rows,
    pair_rows,
    provenance,
)
from threeregime.training import TrainingRun, evaluate_errors, train

WAITING_SECONDS = 1.0
"""Seconds between two looks of a process at whether the one that it waits for has ended."""


def run_job(
    job: Job, context: JobContext, progress: Progress = lambda cost: None, wait: bool = True
) -> bool:
    """Run a job as far as the deadline allows; return whether it is finished.

    What another process has computed meanwhile is not computed again. A fleet that does not fit
    into memory is split in two.

    Args:
        job: the fleet.
        context: folder, device and deadline.
        progress: called with the work done since the last call, in net-epochs.
        wait: whether to wait for a process that computes some of the same nets.

    Raises:
        HeldError: another process computes some of the same nets, and ``wait`` is false.
        ThreeRegimeError: the smallest possible fleet does not fit into memory.
    """
    with _claimed(job, context, progress, wait) as is_claimed:
        if not is_claimed:
            return False
        left = _unfinished_part(job, context)
        if left is None:
            progress(job.cost)
            return True
        return _run(left, context, progress)


@contextmanager
def _claimed(job: Job, context: JobContext, progress: Progress, wait: bool) -> Iterator[bool]:
    """Hold the claims of a job; yield False if the deadline comes first."""
    holder = ""
    with ExitStack() as stack:
        while context.deadline is None or time.time() <= context.deadline:
            try:
                stack.enter_context(claims(job.claims(context.folder)))
            except HeldError as error:
                if not wait:
                    raise
                if str(error) != holder:
                    holder = str(error)
                    print(f"waiting for {holder}, which computes the same nets", file=sys.stderr)
            else:
                yield True
                return
            progress(0.0)  # raises if a cluster has taken the job away meanwhile
            time.sleep(WAITING_SECONDS)
        yield False


def _unfinished_part(job: Job, context: JobContext) -> Job | None:
    """Return the part of a job that no process has finished; None if there is none."""
    if isinstance(job, DenseJob):
        return job
    root = context.folder.parents[1]
    finished = finished_nets(context.experiment, root)
    left = tuple(unit for unit in job.units if not is_finished(unit.key, finished))
    return RetrainJob(left) if left else None


def _run(job: Job, context: JobContext, progress: Progress) -> bool:
    """Run a claimed job; in two halves if it does not fit into memory."""
    total = 0.0

    def count(cost: float) -> None:
        nonlocal total
        total += cost
        progress(cost)

    try:
        with compute_settings(context.device):
            if isinstance(job, DenseJob):
                return _run_dense(job, context, count)
            return _run_retraining(job, context, count)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    # Work that is in the checkpoint is reported again by the halves.
    progress(-total)
    # Outside of the handler, where the error no longer keeps the fleet's tensors alive.
    return _run_halves(job, context, progress, reason)


def _run_halves(job: Job, context: JobContext, progress: Progress, reason: str) -> bool:
    """Run a job that did not fit into memory as two jobs, which resume from its checkpoint."""
    gc.collect()
    if context.device.startswith("cuda"):
        torch.cuda.empty_cache()
    halves = job.halves()
    if not halves:
        raise ThreeRegimeError(
            f"out of memory with the smallest fleet, {job.nets} nets: take a smaller net or batch, "
            f"or a device with more ({reason})"
        )
    split_checkpoint(job, halves, context)
    finished = [_run(half, context, progress) for half in halves]
    return all(finished)


def _run_dense(job: DenseJob, context: JobContext, progress: Progress) -> bool:
    """Train dense nets; write a checkpoint and a row at every stop."""
    shard = context.folder / f"dense-{job.fleet}.parquet"
    if _set_aside_damaged(job.checkpoints(context.folder)) and shard.exists():
        progress(job.cost)
        return True
    _forget_lost_stops(job, context)
    recipe, task = job.training, context.load_task(job.protocol)
    engine = engine_for(context, job.protocol, recipe, job.nets)
    protocols = {job.protocol.dense_hash: job.protocol.to_dict(defaults=False)}
    origin = provenance(job, context, engine, protocols, {"dense": list(job.seeds)})
    fleet = Fleet.initial(
        net_builder(job.protocol.net, task),
        [stream_seed("initial", seed) for seed in job.seeds],
        context.device,
        **engine.fleet_options,
    )

    def measure(run: TrainingRun) -> None:
        # A recipe that gives steps has one stop, after the last of them.
        stops = {run.epochs if recipe.iterations else stop: stop for stop in job.stops}
        if run.epoch in stops:
            stop, measurements = stops[run.epoch], resumable.measurements
            measurements.test_error[stop] = evaluate_errors(fleet, task, train=False)
            measurements.train_error[stop] = evaluate_errors(fleet, task, train=True)
            _save_dense(job, context, fleet.state(), stop)

    resumable = ResumableTraining(job, context, progress, measure)
    seeds = [stream_seed("dense", seed) for seed in job.seeds]
    epochs = None if recipe.iterations else max(job.stops)
    run = train(fleet, task, recipe, seeds, engine=engine, epochs=epochs, callback=resumable)
    if run.epoch < (epochs or run.epochs):
        return False
    rows = dense_rows(job, context, resumable.measurements)
    write_shard(shard, rows, completed(origin, resumable.seconds))
    resumable.path.unlink(missing_ok=True)
    return True


def _save_dense(job: DenseJob, context: JobContext, state: State, epoch: int) -> None:
    for member, seed in enumerate(job.seeds):
        net = {name: tensor[member] for name, tensor in state.items()}
        write_state(dense_checkpoint(context.folder, job.protocol, seed, epoch), net)


def _forget_lost_stops(job: DenseJob, context: JobContext) -> None:
    """Remove the checkpoint of a dense fleet that is past a stop whose checkpoints are lost."""
    path = fleet_checkpoint(context.folder, job)
    if not path.exists():
        return
    try:
        passed = EpochMeasurements.from_tensors(read_state(path)).test_error
    except DamagedCheckpoint:
        return  # it is set aside when the fleet resumes
    stops = tuple(stop for stop in job.stops if stop in passed)
    left = replace(job, stops=stops).checkpoints(context.folder)
    if not all(checkpoint.exists() for checkpoint in left):
        path.unlink()


def _set_aside_damaged(checkpoints: list[Path]) -> bool:
    """Return whether all checkpoints are there; set those aside that are damaged."""
    for path in checkpoints:
        if path.exists():
            try:
                read_state(path)
            except DamagedCheckpoint as error:
                set_aside(error)
    return all(path.exists() for path in checkpoints)


def _run_retraining(job: RetrainJob, context: JobContext, progress: Progress) -> bool:
    """Prune dense checkpoints, retrain the copies, measure nets and pairs."""
    early = job.protocol.metrics.early
    # Pairs are written last: a fleet that has them has all of its tables.
    kinds = ("nets", "early", "pairs") if early else ("nets", "pairs")
    shards = {kind: context.folder / f"{kind}-{job.fleet}.parquet" for kind in kinds}
    if all(shard.exists() for shard in shards.values()):
        progress(job.cost)
        return True
    checkpoints = [unit_checkpoint(context.folder, unit) for unit, _ in job.members]
    if not all(path.exists() for path in checkpoints):
        return False  # the deadline stopped its dense run
    retraining = _Retraining.load(job, context, checkpoints)
    origin = retraining.provenance(context)
    resumable = ResumableTraining(
        job,
        context,
        progress,
        lambda run: retraining.measure_epoch(run, resumable.measurements),
        dict.fromkeys(early, job.measuring / job.nets),
    )
    run = retraining.train(resumable)
    if run.epoch < run.epochs:
        return False
    resumable.save()
    if not resumable.fits(1.5 * job.last_measuring / job.nets):
        return False
    start = time.monotonic()
    rows = retraining.final_rows(run, context, resumable.measurements)
    resumable.seconds += time.monotonic() - start
    record = completed(origin, resumable.seconds)
    for kind, shard in shards.items():
        write_shard(shard, rows[kind], record)
    resumable.path.unlink(missing_ok=True)
    progress(job.last_measuring)
    return True


@dataclass(frozen=True)
class _Retraining:
    """A fleet of pruned nets to retrain and measure.

    Attributes:
        job: its members.
        task: the data.
        fleet: the dense nets that the members start from.
        masks: the weights to keep.
        engine: how the fleet runs.
    """

    job: RetrainJob
    task: Task
    fleet: Fleet
    masks: Masks
    engine: Engine

    @classmethod
    def load(cls, job: RetrainJob, context: JobContext, checkpoints: list[Path]) -> _Retraining:
        """Load the dense checkpoints, one per member, and compute the masks."""
        protocol, task = job.protocol, context.load_task(job.protocol)
        engine = engine_for(context, protocol, job.training, job.nets)
        nets = {path: read_state(path, context.device) for path in set(checkpoints)}
        state = {
            name: torch.stack([nets[path][name] for path in checkpoints])
            for name in nets[checkpoints[0]]
        }
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

    def train(self, callback: ResumableTraining) -> TrainingRun:
        """Retrain the fleet, from its checkpoint if there is one."""
        members = self.job.members
        return train(
            self.fleet,
            self.task,
            self.job.training,
            [stream_seed("retrain", unit.dense_seed, seed) for unit, seed in members],
            masks=self.masks,
            bits=[unit.protocol.pruning.bits for unit, _ in members],
            engine=self.engine,
            callback=callback,
        )

    def error_epochs(self, run: TrainingRun) -> range:
        """Return the epochs to average the test error over."""
        epochs = self.job.protocol.metrics.error_epochs
        return range(max(0, run.epochs - epochs) + 1, run.epochs + 1)

    def measure_epoch(self, run: TrainingRun, measurements: EpochMeasurements) -> None:
        """Measure what the protocol asks for after this epoch."""
        early, epoch = self.job.protocol.metrics.early, run.epoch
        if epoch not in self.error_epochs(run) and epoch not in early:
            return
        with run.evaluated_weights():
            measurements.test_error[epoch] = evaluate_errors(self.fleet, self.task, train=False)
            if epoch in early:
                measurements.add_pairs(epoch, self._measure_pairs())

    def final_rows(
        self, run: TrainingRun, context: JobContext, measurements: EpochMeasurements
    ) -> dict[str, pd.DataFrame]:
        """Measure the retrained nets and their pairs; return the tables' rows by kind."""
        job, metrics = self.job, self.job.protocol.metrics
        # In order of time, which a checkpoint does not keep: the rounding of a sum depends on it.
        test = torch.stack([measurements.test_error[e] for e in self.error_epochs(run)])
        curvature = None
        with run.evaluated_weights():
            train_error = evaluate_errors(self.fleet, self.task, train=True).cpu()
            pairs = self._measure_pairs()
            if metrics.hessian:
                curvature = measure_curvature(
                    self.fleet, self.masks, self.task, metrics.hessian, metrics.samples
                )
        return {
            "nets": net_rows(job, context, test.mean(dim=0).cpu(), train_error, curvature),
            "early": early_rows(job, context, measurements),
            "pairs": pair_rows(job, context, pairs),
        }

    def provenance(self, context: JobContext) -> Record:
        """Return the record of origin of the tables."""
        units = self.job.units
        seeds = {
            "dense": sorted({unit.dense_seed for unit in units}),
            "retrain": sorted({seed for _, seed in self.job.members}),
        }
        protocols = {u.protocol.hash(): u.protocol.to_dict(defaults=False) for u in units}
        return provenance(self.job, context, self.engine, protocols, seeds)

    def _measure_pairs(self) -> PairMetrics:
        metrics = self.job.protocol.metrics
        return measure_pairs(self.fleet, self.job.pairs, self.task, metrics.points, metrics.samples)
