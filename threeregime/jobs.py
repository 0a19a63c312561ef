"""Doing one job: train a dense or a pruned fleet, measure it, write its tables.

A job begins by asking whether it is done, goes on from its last checkpoint if there is one, and
ends with its shards in place. It can be killed at any moment.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from threeregime import results
from threeregime.catalogue import Unit
from threeregime.data import Dataset, load
from threeregime.fleet import Fleet, State
from threeregime.loader import Loader, stream
from threeregime.measure import PairMetrics, measure_pairs
from threeregime.mechanisms import choose
from threeregime.models import NETS
from threeregime.protocol import Data, Protocol, Training
from threeregime.provenance import provenance
from threeregime.pruning import Masks, masks
from threeregime.sweep import (
    MEASURE_FORWARDS,
    DenseJob,
    Job,
    Place,
    RetrainJob,
    dense_checkpoint,
    state_folder,
)
from threeregime.training import Run, errors

CHECKPOINT_SECONDS = 15.0
Advance = Callable[[float], None]


def perform(job: Job, place: Place, advance: Advance = lambda cost: None) -> bool:
    """Do a job as far as the deadline allows; return whether it is finished.

    Args:
        job: the fleet.
        place: folder, device and deadline.
        advance: told of the work done since it was last called, in net-epochs.
    """
    # One thread a fleet: two fleets on two cores do more than one fleet on two threads, and
    # the numbers do not depend on how many workers there are.
    if place.device == "cpu":
        torch.set_num_threads(1)
        _keep_memory()
    if place.deadline is not None and time.time() > place.deadline:
        return False
    return (
        _dense(job, place, advance) if isinstance(job, DenseJob) else _retrain(job, place, advance)
    )


@functools.cache
def _keep_memory() -> None:
    """Keep freed memory in the process: glibc gives every large activation back at once.

    Faulting it in again takes a quarter of a step. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)


@functools.cache
def dataset(wanted: Data, data_dir: Path, download: bool, device: str) -> Dataset:
    """The data set on the device, loaded once a process."""
    return load(wanted.name, data_dir, download).reduced(wanted.images, wanted.size).to(device)


def builder(protocol: Protocol, data: Dataset) -> Callable[[], nn.Module]:
    """Function that builds one plain net of the protocol for the data."""
    kind, net = NETS[protocol.net.name], protocol.net
    return lambda: kind.build(net.depth, net.width, data.channels, data.classes)


class _Trainer:
    """Trains a run epoch by epoch inside the deadline, with checkpoints."""

    def __init__(self, run: Run, job: Job, place: Place, advance: Advance) -> None:
        self.run, self.job, self.place, self.advance = run, job, place, advance
        self.path = state_folder(place.at) / f"fleet-{job.fleet}.safetensors"
        self.extra: State = {}
        self.seconds = 0.0
        self.slowest_epoch = place.epoch_seconds
        if self.path.exists():
            state = load_file(self.path, device=str(run.fleet.device))
            run.load(state)
            self.seconds = float(state["seconds"])
            self.slowest_epoch = float(state["slowest_epoch"])
            self.extra = {k: v for k, v in state.items() if k.startswith("extra/")}
            advance(run.epoch * job.nets)

    def save(self) -> None:
        state = {**self.run.state(), **self.extra}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        state["slowest_epoch"] = torch.tensor(self.slowest_epoch, dtype=torch.float64)
        # safetensors wants each tensor dense and its own
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        results.atomic_write(self.path, lambda path: save_file(state, path))

    def fits(self, epochs: float) -> bool:
        """Whether work as long as so many epochs ends before the deadline."""
        deadline = self.place.deadline
        return deadline is None or time.time() + epochs * self.slowest_epoch < deadline

    def train(self, until: int, after_epoch: Callable[[int], None]) -> bool:
        """Train up to an epoch; False when the deadline comes first (all is saved)."""
        saved = time.monotonic()
        while self.run.epoch < until:
            if not self.fits(1.5):
                self.save()
                return False
            begin = time.monotonic()
            self.run.run_epoch()
            after_epoch(self.run.epoch)
            took = time.monotonic() - begin
            self.seconds += took
            self.slowest_epoch = max(took, self.slowest_epoch)
            self.advance(self.job.nets)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        return True


def _data(protocol: Protocol, place: Place) -> Dataset:
    return dataset(protocol.data, place.data_dir, place.download, place.device)


def _run(
    fleet: Fleet, data: Dataset, protocol: Protocol, training: Training, seeds: list[int]
) -> Run:
    """A fleet in training on its members' own streams, nothing pruned yet."""
    return Run(
        fleet,
        Loader(data, seeds, training.batch_size, protocol.data.crop, protocol.data.flip),
        training,
    )


def _dense(job: DenseJob, place: Place, advance: Advance) -> bool:
    """Train dense nets, leaving a checkpoint and a row at every stop."""
    shard = place.at / f"dense-{job.fleet}.parquet"
    if shard.exists() and all(path.exists() for path in job.checkpoints(place.at)):
        advance(job.cost)
        return True
    data = _data(job.protocol, place)
    fleet = Fleet.initial(
        builder(job.protocol, data),
        [stream("initial", seed) for seed in job.seeds],
        place.device,
        mechanism=choose(place.device, job.nets),
    )
    streams = [stream("dense", seed) for seed in job.seeds]
    run = _run(fleet, data, job.protocol, job.protocol.dense, streams)
    trainer = _Trainer(run, job, place, advance)

    def after_epoch(epoch: int) -> None:
        if epoch in job.stops:
            for train in (False, True):
                trainer.extra[_extra(train, epoch)] = errors(fleet, data, train)
            _save_dense(job, place, fleet.state(), epoch)

    if not trainer.train(max(job.stops), after_epoch):
        return False
    protocols = {job.protocol.dense_hash: job.protocol.to_dict(defaults=False)}
    origin = provenance(job, place, protocols, {"dense": list(job.seeds)}, trainer.seconds)
    results.write_shard(shard, _dense_rows(job, place, trainer.extra), origin)
    trainer.path.unlink(missing_ok=True)
    return True


def _extra(train: bool, epoch: int) -> str:
    return f"extra/{'train' if train else 'test'}_error/{epoch}"


def _save_dense(job: DenseJob, place: Place, state: State, epoch: int) -> None:
    for member, seed in enumerate(job.seeds):
        one = {name: tensor[member].contiguous() for name, tensor in state.items()}
        path = dense_checkpoint(place.at, job.protocol, seed, epoch)
        results.atomic_write(path, functools.partial(save_file, one))


def _dense_rows(job: DenseJob, place: Place, extra: State) -> pd.DataFrame:
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        test, train = (float(extra[_extra(t, stop)][member]) for t in (False, True))
        at_stop = job.protocol.replace("dense.stop", stop)
        rows.append(
            {
                "variant": job.variant,
                **place.experiment.place(at_stop, "data", "net", "dense"),
                "dense_seed": seed,
                "test_error": test,
                "train_error": train,
                "diverged": test != test,  # NaN
                "base": job.base,
                "fleet": job.fleet,
            }
        )
    return pd.DataFrame(rows)


def _retrain(job: RetrainJob, place: Place, advance: Advance) -> bool:
    """Prune dense checkpoints, retrain the copies, measure nets and pairs."""
    shards = [place.at / f"{kind}-{job.fleet}.parquet" for kind in ("nets", "pairs")]
    if all(shard.exists() for shard in shards):
        advance(job.cost)
        return True
    files = [_dense_file(unit, place) for unit, _ in job.members]
    if not all(path.exists() for path in files):
        return False  # the deadline stopped its dense run
    protocol, data = job.protocol, _data(job.protocol, place)
    retraining, metrics = protocol.retraining, protocol.metrics
    fleet, kept = _prune(job, place, data, files)
    streams = [stream("retrain", unit.dense_seed, seed) for unit, seed in job.members]
    run = _run(fleet, data, protocol, retraining, streams)
    run.prune(kept)
    trainer = _Trainer(run, job, place, advance)

    counted = range(max(0, retraining.epochs - metrics.error_epochs) + 1, retraining.epochs + 1)

    def after_epoch(epoch: int) -> None:
        if epoch in counted:
            trainer.extra[_extra(False, epoch)] = errors(fleet, data, False)

    if not trainer.train(retraining.epochs, after_epoch):
        return False
    trainer.save()
    measuring = len(job.pairs) / job.nets * metrics.points * MEASURE_FORWARDS
    if not trainer.fits(1.5 * measuring):
        return False
    begin = time.monotonic()
    # In the order of time: a checkpoint hands them back in another, and sums round by order.
    test = torch.stack([trainer.extra[_extra(False, e)] for e in counted]).mean(dim=0).cpu()
    train = errors(fleet, data, True).cpu()
    pairs = measure_pairs(fleet, job.pairs, data, metrics.points, metrics.samples)
    trainer.seconds += time.monotonic() - begin
    seeds = {
        "dense": sorted({unit.dense_seed for unit in job.units}),
        "retrain": sorted({seed for _, seed in job.members}),
    }
    protocols = {u.protocol.hash(): u.protocol.to_dict(defaults=False) for u in job.units}
    origin = provenance(job, place, protocols, seeds, trainer.seconds)
    tables = (_net_rows(job, place, test, train), _pair_rows(job, place, pairs))
    for shard, rows in zip(shards, tables, strict=True):
        results.write_shard(shard, rows, origin)
    trainer.path.unlink(missing_ok=True)
    advance(job.cost - job.nets * retraining.epochs)
    return True


def _dense_file(unit: Unit, place: Place) -> Path:
    return dense_checkpoint(place.at, unit.protocol, unit.dense_seed, unit.protocol.dense.stopped)


def _prune(job: RetrainJob, place: Place, data: Dataset, files: list[Path]) -> tuple[Fleet, Masks]:
    """The fleet of dense nets that the members start from, and their masks."""
    loaded = {path: load_file(path, device=place.device) for path in set(files)}
    state = {name: torch.stack([loaded[path][name] for path in files]) for name in loaded[files[0]]}
    fleet = Fleet(
        builder(job.protocol, data), state, place.device, mechanism=choose(place.device, job.nets)
    )
    pruning = [unit.protocol.pruning for unit, _ in job.members]
    weights = {name: state[name] for name in fleet.prunable()}
    return fleet, masks(weights, [p.method for p in pruning], [p.density for p in pruning])


def _columns(job: RetrainJob, place: Place, member: int, **values: Any) -> dict[str, Any]:
    """A row: where the member lies, the given values, and what identifies the cell."""
    unit, axes = job.members[member][0], place.experiment
    return {
        "variant": unit.variant,
        axes.temperature: unit.temperature,
        axes.load: unit.load,
        "dense_seed": unit.dense_seed,
        **values,
        "cell": unit.protocol.hash(),
        "base": axes.base(unit.protocol),
        "fleet": job.fleet,
    }


def _net_rows(job: RetrainJob, place: Place, test: Tensor, train: Tensor) -> pd.DataFrame:
    broken = test.isnan() | train.isnan()
    return pd.DataFrame(
        _columns(
            job,
            place,
            member,
            retrain_seed=seed,
            test_error=float(test[member]),
            train_error=float(train[member]),
            diverged=bool(broken[member]),
        )
        for member, (_, seed) in enumerate(job.members)
    )


def _pair_rows(job: RetrainJob, place: Place, pairs: PairMetrics) -> pd.DataFrame:
    return pd.DataFrame(
        _columns(
            job,
            place,
            a,
            seed_a=job.members[a][1],
            seed_b=job.members[b][1],
            lmc=float(pairs.lmc[p]),
            t_star=float(pairs.t_star[p]),
            curve=pairs.curve[p].tolist(),
            cka_softmax=float(pairs.cka_softmax[p]),
            cka_logits=float(pairs.cka_logits[p]),
        )
        for p, (a, b) in enumerate(job.pairs)
    )
