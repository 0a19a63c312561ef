"""Training that stops before a deadline and goes on from its checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from threeregime.fleet import State
from threeregime.results import atomic_write
from threeregime.sweep.measured import EpochMeasurements
from threeregime.sweep.plan import Job, JobContext, RetrainJob, fleet_checkpoint
from threeregime.training import Callback, TrainingRun

CHECKPOINT_SECONDS = 15.0
EPOCHS_BEFORE_DEADLINE = 1.5
"""An epoch begins only if this many of the slowest epochs so far end before the deadline."""
Progress = Callable[[float], None]
"""Is told of work done, in net-epochs."""


class ResumableTraining(Callback):
    """Stops training before the deadline, saves checkpoints and goes on from the last one.

    Args:
        job: whose fleet is trained.
        context: folder and deadline.
        progress: is told of the work done.
        measure: called after each epoch, to fill ``measured``.
        measuring_epochs: after which epochs ``measure`` takes time, and as long as how many epochs.

    Attributes:
        measured: what was measured so far; the checkpoint keeps it.
        seconds: spent on training and measuring, over all runs.
    """

    def __init__(
        self,
        job: Job,
        context: JobContext,
        progress: Progress,
        measure: Callable[[TrainingRun], None],
        measuring_epochs: Mapping[int, float] | None = None,
    ) -> None:
        self.job, self.context, self.progress, self.measure = job, context, progress, measure
        self.measuring_epochs = measuring_epochs or {}
        self.path = fleet_checkpoint(context.at, job)
        self.measured = EpochMeasurements()
        self.seconds = 0.0
        self.slowest_epoch = context.epoch_seconds
        self.saved = time.monotonic()

    def on_start(self, run: TrainingRun) -> None:
        """Load the checkpoint into the run, if there is one."""
        self.run = run
        # Costs are in epochs of the schedule, which is stretched where steps are given.
        self.share = run.recipe.epochs / run.epochs
        self.begin = self.saved = time.monotonic()
        if not self.path.exists():
            return
        state = load_file(self.path, device=str(run.fleet.device))
        run.load(state)
        self.seconds = float(state["seconds"])
        self.slowest_epoch = float(state["slowest_epoch"])
        self.measured = EpochMeasurements.from_tensors(state)
        done = sum(cost for epoch, cost in self.measuring_epochs.items() if epoch <= run.epoch)
        self.progress(self.job.nets * (run.epoch * self.share + done))

    def may_continue(self, run: TrainingRun) -> bool:
        """Return whether the next epoch ends before the deadline; save everything if not."""
        measuring = self.measuring_epochs.get(run.epoch + 1, 0.0)
        if not self.fits(EPOCHS_BEFORE_DEADLINE * (1 + measuring)):
            self.save()
            return False
        self.begin = time.monotonic()
        return True

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Measure, take the time, tell of progress and save now and then."""
        self.measure(run)
        measuring = self.measuring_epochs.get(run.epoch, 0.0)
        took = time.monotonic() - self.begin
        self.seconds += took
        self.slowest_epoch = max(took / (1 + measuring), self.slowest_epoch)
        self.progress(self.job.nets * (self.share + measuring))
        if time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self.save()
            self.saved = time.monotonic()

    def fits(self, epochs: float) -> bool:
        """Return whether work as long as this many epochs ends before the deadline."""
        deadline = self.context.deadline
        return deadline is None or time.time() + epochs * self.slowest_epoch < deadline

    def save(self) -> None:
        """Write the checkpoint."""
        state = {**self.run.state(), **self.measured.to_tensors()}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        state["slowest_epoch"] = torch.tensor(self.slowest_epoch, dtype=torch.float64)
        # safetensors wants each tensor dense and its own.
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        write_checkpoint(self.path, self.job, state)


def write_checkpoint(path: Path, job: Job, state: State) -> None:
    """Write a fleet's checkpoint; a retrained one names its units, so that any plan can go on."""
    units = [unit.key for unit in job.units] if isinstance(job, RetrainJob) else []
    metadata = {"units": json.dumps(units)}
    atomic_write(path, lambda own: save_file(state, own, metadata))


def split_checkpoint(job: Job, parts: Sequence[Job], context: JobContext) -> None:
    """Hand the checkpoint of a fleet, if there is one, on to the fleets that take its place."""
    whole = fleet_checkpoint(context.at, job)
    if not whole.exists():
        return
    state, net, pair = load_file(whole), 0, 0
    for part in parts:
        members = slice(net, net + part.nets)
        # Pairs lie in the order of their units, as members do.
        pairs = slice(pair, pair + len(part.pairs) if isinstance(part, RetrainJob) else pair)
        net, pair = members.stop, pairs.stop
        own = {
            # What has no dimension is the same for every member.
            name: t[pairs if EpochMeasurements.is_of_pairs(name) else members].clone()
            if t.dim()
            else t
            for name, t in state.items()
        }
        own["seconds"] = state["seconds"] * part.nets / job.nets
        write_checkpoint(fleet_checkpoint(context.at, part), part, own)
    whole.unlink()
