"""Training that stops before a deadline and resumes from its checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from threeregime.fleet import State
from threeregime.sweep.checkpoints import (
    DamagedCheckpoint,
    EpochMeasurements,
    read_state,
    set_aside,
    write_state,
)
from threeregime.sweep.plan import Job, JobContext, RetrainJob, fleet_checkpoint
from threeregime.training import Callback, TrainingRun

CHECKPOINT_SECONDS = 15.0
"""Shortest time between two checkpoints."""
EPOCHS_BEFORE_DEADLINE = 1.5
"""An epoch starts only if this many of the slowest epochs so far fit before the deadline."""
Progress = Callable[[float], None]
"""Called with the work done since the last call, in net-epochs."""


class ResumableTraining(Callback):
    """Stop training before the deadline, save checkpoints and resume from the last one.

    Args:
        job: the job whose fleet is trained.
        context: folder and deadline.
        progress: called after each epoch.
        measure: called after each epoch, to fill ``measurements``.
        measuring_epochs: duration of ``measure``, in epochs, by the epoch after which it takes
            time.

    Attributes:
        measurements: all measurements so far, which the checkpoint saves.
        seconds: time spent on training and measuring, over all runs.
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
        self.path = fleet_checkpoint(context.folder, job)
        self.measurements = EpochMeasurements()
        self.seconds = 0.0
        self.slowest_epoch = context.epoch_seconds
        self.save_time = time.monotonic()

    def on_start(self, run: TrainingRun) -> None:
        """Load the checkpoint into the run, if there is one; set a damaged one aside."""
        self.run = run
        # Costs are in epochs of the schedule, which is stretched where the recipe gives steps.
        self.schedule_epochs = run.recipe.epochs / run.epochs
        self.epoch_start = self.save_time = time.monotonic()
        state = self._read(run)
        if state is None:
            return
        run.load(state)
        self.seconds = float(state["seconds"])
        self.slowest_epoch = float(state["slowest_epoch"])
        self.measurements = EpochMeasurements.from_tensors(state)
        measuring = sum(cost for epoch, cost in self.measuring_epochs.items() if epoch <= run.epoch)
        self.progress(self.job.nets * (run.epoch * self.schedule_epochs + measuring))

    def _read(self, run: TrainingRun) -> State | None:
        """Return the checkpoint of a run, if there is one that fits."""
        if not self.path.exists():
            return None
        try:
            state = read_state(self.path, run.fleet.device)
            expected = {**run.state(), "seconds": torch.empty(()), "slowest_epoch": torch.empty(())}
            for name, tensor in expected.items():
                if name not in state or state[name].shape != tensor.shape:
                    raise DamagedCheckpoint(self.path, f"{name} is missing or of another shape")
        except DamagedCheckpoint as error:
            set_aside(error)
            return None
        return state

    def may_continue(self, run: TrainingRun) -> bool:
        """Return whether the next epoch ends before the deadline; save a checkpoint if not."""
        measuring = self.measuring_epochs.get(run.epoch + 1, 0.0)
        if not self.fits(EPOCHS_BEFORE_DEADLINE * (1 + measuring)):
            self.save()
            return False
        self.epoch_start = time.monotonic()
        return True

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Measure, time the epoch, report progress, and save if the last checkpoint is old."""
        self.measure(run)
        measuring = self.measuring_epochs.get(run.epoch, 0.0)
        seconds = time.monotonic() - self.epoch_start
        self.seconds += seconds
        self.slowest_epoch = max(seconds / (1 + measuring), self.slowest_epoch)
        self.progress(self.job.nets * (self.schedule_epochs + measuring))
        if time.monotonic() - self.save_time > CHECKPOINT_SECONDS:
            self.save()
            self.save_time = time.monotonic()

    def fits(self, epochs: float) -> bool:
        """Return whether work that takes as long as this many epochs ends before the deadline."""
        deadline = self.context.deadline
        return deadline is None or time.time() + epochs * self.slowest_epoch < deadline

    def save(self) -> None:
        """Write the checkpoint."""
        state = {**self.run.state(), **self.measurements.to_tensors()}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        state["slowest_epoch"] = torch.tensor(self.slowest_epoch, dtype=torch.float64)
        write_checkpoint(self.path, self.job, state)


def write_checkpoint(path: Path, job: Job, state: State) -> None:
    """Write a checkpoint; that of a retraining names its units, so that any plan can resume it."""
    units = [unit.key for unit in job.units] if isinstance(job, RetrainJob) else []
    write_state(path, state, {"units": units})


def split_checkpoint(job: Job, parts: Sequence[Job], context: JobContext) -> None:
    """Split the checkpoint of a fleet, if there is one, into those of its parts."""
    path = fleet_checkpoint(context.folder, job)
    if not path.exists():
        return
    try:
        state, net, pair = read_state(path), 0, 0
    except DamagedCheckpoint as error:
        set_aside(error)
        return
    for part in parts:
        members = slice(net, net + part.nets)
        # Pairs are in the order of their units, as members are.
        pairs = slice(pair, pair + len(part.pairs) if isinstance(part, RetrainJob) else pair)
        net, pair = members.stop, pairs.stop
        part_state = {
            # A tensor without dimensions is the same for every member.
            name: t[pairs if EpochMeasurements.is_of_pairs(name) else members].clone()
            if t.dim()
            else t
            for name, t in state.items()
        }
        part_state["seconds"] = state["seconds"] * part.nets / job.nets
        write_checkpoint(fleet_checkpoint(context.folder, part), part, part_state)
    path.unlink()
