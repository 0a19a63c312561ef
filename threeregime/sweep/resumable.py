"""Training a fleet inside a deadline, with checkpoints from which it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from threeregime.fleet.fleet import State
from threeregime.results import atomic_write
from threeregime.sweep.plan import Job, Place, RetrainJob, half_trained
from threeregime.training.run import Run

CHECKPOINT_SECONDS = 15.0
EPOCHS_BEFORE_DEADLINE = 1.5
"""An epoch is begun where so many of the slowest so far end before the deadline."""
Advance = Callable[[float], None]


class Trainer:
    """Trains a run epoch by epoch inside the deadline, with checkpoints.

    Args:
        run: the fleet in training.
        job: whose fleet it is.
        place: folder and deadline.
        advance: told of the work done, in net-epochs.
        beside: after which epochs there is other work to do, and as long as how many epochs.

    Attributes:
        extra: what the checkpoint keeps beside the run: tensors [M, ...] under ``extra/``, and of
            pairs [P, ...] under ``pairs/``.
    """

    def __init__(
        self,
        run: Run,
        job: Job,
        place: Place,
        advance: Advance,
        beside: Mapping[int, float] | None = None,
    ) -> None:
        self.run, self.job, self.place, self.advance = run, job, place, advance
        self.beside = beside or {}
        self.path = half_trained(place.at, job)
        # Costs are in epochs of the schedule, which is stretched where steps are given.
        self.share = run.training.epochs / run.epochs
        self.extra: State = {}
        self.seconds = 0.0
        self.slowest_epoch = place.epoch_seconds
        if self.path.exists():
            state = load_file(self.path, device=str(run.fleet.device))
            run.load(state)
            self.seconds = float(state["seconds"])
            self.slowest_epoch = float(state["slowest_epoch"])
            self.extra = {k: v for k, v in state.items() if k.startswith(("extra/", "pairs/"))}
            done = sum(epochs for epoch, epochs in self.beside.items() if epoch <= run.epoch)
            advance(job.nets * (run.epoch * self.share + done))

    def save(self) -> None:
        """Write the checkpoint."""
        state = {**self.run.state(), **self.extra}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        state["slowest_epoch"] = torch.tensor(self.slowest_epoch, dtype=torch.float64)
        # safetensors wants each tensor dense and its own
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        write_checkpoint(self.path, self.job, state)

    def fits(self, epochs: float) -> bool:
        """Whether work as long as so many epochs ends before the deadline."""
        deadline = self.place.deadline
        return deadline is None or time.time() + epochs * self.slowest_epoch < deadline

    def train(self, until: int, after_epoch: Callable[[int], None]) -> bool:
        """Train up to an epoch; False when the deadline comes first (all is saved)."""
        saved = time.monotonic()
        while self.run.epoch < until:
            beside = self.beside.get(self.run.epoch + 1, 0.0)
            if not self.fits(EPOCHS_BEFORE_DEADLINE * (1 + beside)):
                self.save()
                return False
            begin = time.monotonic()
            self.run.run_epoch()
            after_epoch(self.run.epoch)
            took = time.monotonic() - begin
            self.seconds += took
            self.slowest_epoch = max(took / (1 + beside), self.slowest_epoch)
            self.advance(self.job.nets * (self.share + beside))
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        return True


def write_checkpoint(path: Path, job: Job, state: State) -> None:
    """Write a fleet's checkpoint; a retrained one names its units, so that any plan can go on."""
    units = [unit.key for unit in job.units] if isinstance(job, RetrainJob) else []
    metadata = {"units": json.dumps(units)}
    atomic_write(path, lambda own: save_file(state, own, metadata))


def split_checkpoint(job: Job, parts: Sequence[Job], place: Place) -> None:
    """Hand the checkpoint of a fleet, if there is one, on to the fleets that take its place."""
    whole = half_trained(place.at, job)
    if not whole.exists():
        return
    state, net, pair = load_file(whole), 0, 0
    for part in parts:
        members = slice(net, net + part.nets)
        # Pairs lie in the order of their units, as members do.
        pairs = slice(pair, pair + len(part.pairs) if isinstance(part, RetrainJob) else pair)
        net, pair = members.stop, pairs.stop
        # What has no dimension is the same for every member.
        own = {
            name: t[pairs if name.startswith("pairs/") else members].clone() if t.dim() else t
            for name, t in state.items()
        }
        own["seconds"] = state["seconds"] * part.nets / job.nets
        write_checkpoint(half_trained(place.at, part), part, own)
    whole.unlink()
