"""Doing one job: train a dense or a pruned fleet, measure it, write its tables.

A job begins by asking whether it is done, goes on from its last checkpoint if there is one, and
ends with its shards in place. It can be killed at any moment.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import threeregime
from threeregime import results
from threeregime.data import Dataset, Loader, load, stream
from threeregime.fleet import Fleet, State
from threeregime.measure import measure_pairs
from threeregime.models import NETS
from threeregime.protocol import Protocol, Training
from threeregime.pruning import masks
from threeregime.sweep import DenseJob, Job, Place, RetrainJob, dense_checkpoint, state_folder
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
    return _dense(job, place, advance) if isinstance(job, DenseJob) else _retrain(job, place, advance)


@functools.cache
def dataset(name: str, data_dir: Path, download: bool, device: str) -> Dataset:
    """The data set on the device, loaded once a process."""
    return load(name, data_dir, download).to(device)


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
        self.slowest_epoch = 0.0
        if self.path.exists():
            state = load_file(self.path, device=str(run.fleet.device))
            run.load(state)
            self.seconds = float(state["seconds"])
            self.extra = {k: v for k, v in state.items() if k.startswith("extra/")}
            advance(run.epoch * job.nets)

    def save(self) -> None:
        state = {**self.run.state(), **self.extra}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
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


def _start(
    job: Job, training: Training, fleet: Fleet, kept: dict[str, Tensor] | None, place: Place
) -> Run:
    protocol = job.protocol
    data = _data(protocol, place)
    if isinstance(job, DenseJob):
        seeds = [stream("dense", seed) for seed in job.seeds]
    else:
        seeds = [stream("retrain", unit.dense_seed, seed) for unit, seed in job.members]
    loader = Loader(data, seeds, training.batch_size, protocol.data.crop, protocol.data.flip)
    return Run(fleet, loader, training, kept, place.compiled)


def _data(protocol: Protocol, place: Place) -> Dataset:
    return dataset(protocol.data.name, place.data_dir, place.download, place.device)


def _dense(job: DenseJob, place: Place, advance: Advance) -> bool:
    """Train dense nets, leaving a checkpoint and a row at every stop."""
    shard = place.at / f"dense-{job.fleet}.parquet"
    if shard.exists() and all(path.exists() for path in job.checkpoints(place.at)):
        advance(job.cost)
        return True
    data = _data(job.protocol, place)
    build = builder(job.protocol, data)
    fleet = Fleet(build, [stream("initial", seed) for seed in job.seeds], place.device)
    trainer = _Trainer(_start(job, job.protocol.dense, fleet, None, place), job, place, advance)

    def after_epoch(epoch: int) -> None:
        if epoch in job.stops:
            kinds = {"test_error": errors(fleet, data, False), "train_error": errors(fleet, data, True)}
            trainer.extra |= {f"extra/{kind}/{epoch}": error for kind, error in kinds.items()}
            state = fleet.state()
            for member, seed in enumerate(job.seeds):
                one = {name: tensor[member].contiguous() for name, tensor in state.items()}
                path = dense_checkpoint(place.at, job.protocol, seed, epoch)
                results.atomic_write(path, lambda p, one=one: save_file(one, p))

    if not trainer.train(max(job.stops), after_epoch):
        return False
    axes = place.experiment
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        here = job.protocol.replace("dense.stop", stop)
        test = float(trainer.extra[f"extra/test_error/{stop}"][member])
        train = float(trainer.extra[f"extra/train_error/{stop}"][member])
        rows.append(
            {
                "variant": job.variant,
                **axes.place(here, "data", "net", "dense"),
                "dense_seed": seed,
                "test_error": test,
                "train_error": train,
                "diverged": test != test,
                "base": job.base,
                "fleet": job.fleet,
            }
        )
    seeds = {"dense": list(job.seeds)}
    protocols = {job.protocol.dense_hash: job.protocol.to_dict(defaults=False)}
    results.write_shard(
        shard, pd.DataFrame(rows), _provenance(job, place, protocols, seeds, trainer.seconds)
    )
    trainer.path.unlink(missing_ok=True)
    return True


def _retrain(job: RetrainJob, place: Place, advance: Advance) -> bool:
    """Prune dense checkpoints, retrain the copies, measure nets and pairs."""
    nets_shard, pairs_shard = (place.at / f"{k}-{job.fleet}.parquet" for k in ("nets", "pairs"))
    if nets_shard.exists() and pairs_shard.exists():
        advance(job.cost)
        return True
    checkpoints = {
        unit: dense_checkpoint(place.at, unit.protocol, unit.dense_seed, unit.protocol.dense.stopped)
        for unit in job.units
    }
    if not all(path.exists() for path in checkpoints.values()):
        return False  # its dense run was stopped by the deadline
    data = _data(job.protocol, place)
    build = builder(job.protocol, data)
    dense = [load_file(checkpoints[unit], device=place.device) for unit, _ in job.members]
    fleet = Fleet.of(
        build, {name: torch.stack([d[name] for d in dense]) for name in dense[0]}, place.device
    )
    kept = masks(
        {name: w.detach().unflatten(0, (fleet.members, -1)) for name, w in fleet.convolutions().items()},
        [unit.protocol.pruning.method for unit, _ in job.members],
        [unit.protocol.pruning.density for unit, _ in job.members],
    )
    retraining, metrics = job.protocol.retraining, job.protocol.metrics
    trainer = _Trainer(_start(job, retraining, fleet, kept, place), job, place, advance)
    first_counted = retraining.epochs - metrics.error_epochs + 1

    def after_epoch(epoch: int) -> None:
        if epoch >= first_counted:
            trainer.extra[f"extra/test_error/{epoch}"] = errors(fleet, data, False)

    if not trainer.train(retraining.epochs, after_epoch):
        return False
    points = metrics.points
    trainer.save()
    if not trainer.fits(1.5 * points * 2 / 3):
        return False
    begin = time.monotonic()
    test = torch.stack([v for k, v in sorted(trainer.extra.items())]).mean(dim=0).cpu()
    train = errors(fleet, data, True).cpu()
    pairs = measure_pairs(build, fleet.state(), job.pairs, data, points, metrics.samples)
    trainer.seconds += time.monotonic() - begin
    seeds = {
        "dense": sorted({unit.dense_seed for unit in job.units}),
        "retrain": sorted({seed for _, seed in job.members}),
    }
    protocols = {u.protocol.hash(): u.protocol.to_dict(defaults=False) for u in job.units}
    origin = _provenance(job, place, protocols, seeds, trainer.seconds)
    bases = dict(zip(job.units, job.bases, strict=True))

    def where(unit: Any) -> dict[str, Any]:
        axes = place.experiment
        return {
            "variant": unit.variant,
            axes.temperature: unit.temperature,
            axes.load: unit.load,
            "dense_seed": unit.dense_seed,
        }

    def ends(unit: Any) -> dict[str, Any]:
        return {"cell": unit.protocol.hash(), "base": bases[unit], "fleet": job.fleet}

    net_rows = [
        {
            **where(unit),
            "retrain_seed": seed,
            "test_error": float(test[m]),
            "train_error": float(train[m]),
            "diverged": bool(test[m].isnan() or train[m].isnan()),
            **ends(unit),
        }
        for m, (unit, seed) in enumerate(job.members)
    ]
    pair_rows = [
        {
            **where(job.members[a][0]),
            "seed_a": job.members[a][1],
            "seed_b": job.members[b][1],
            "lmc": float(pairs.lmc[p]),
            "t_star": float(pairs.t_star[p]),
            "curve": pairs.curve[p].tolist(),
            "cka_softmax": float(pairs.cka_softmax[p]),
            "cka_logits": float(pairs.cka_logits[p]),
            **ends(job.members[a][0]),
        }
        for p, (a, b) in enumerate(job.pairs)
    ]
    results.write_shard(nets_shard, pd.DataFrame(net_rows), origin)
    results.write_shard(pairs_shard, pd.DataFrame(pair_rows), origin)
    trainer.path.unlink(missing_ok=True)
    advance(job.cost - job.nets * retraining.epochs)
    return True


def _provenance(
    job: Job, place: Place, protocols: dict[str, Any], seeds: dict[str, Any], seconds: float
) -> dict[str, Any]:
    return {
        "experiment": place.experiment.name,
        "scale": place.experiment.scale,
        "fleet": job.fleet,
        "nets": job.nets,
        "protocols": protocols,
        "seeds": seeds,
        "commit": commit(),
        "versions": {
            "threeregime": threeregime.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": numpy.__version__,
        },
        "device": device_name(place.device),
        "compiled": place.compiled,
        "seconds": round(seconds, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def device_name(device: str) -> str:
    """The device in words, e.g. the GPU's or the processor's name."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}, one of {os.cpu_count()} cores"


@functools.cache
def commit() -> str:
    """Git commit of the code, with "+" after it when files have changed since; or "unknown"."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD")[:12] + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
