"""The training loop: one function that trains a fleet, whoever asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from threeregime.data import Task
from threeregime.fleet import Engine, Fleet, compute_settings
from threeregime.protocol import Training
from threeregime.pruning import Masks
from threeregime.training.run import PLAINEST, TrainingRun


class Callback:
    """What to do beside training; a subclass overrides what it needs."""

    def on_start(self, run: TrainingRun) -> None:
        """Prepare for a run, before its first epoch, e.g. load a checkpoint into it."""

    def may_continue(self, run: TrainingRun) -> bool:
        """Return whether to train one more epoch."""
        return True

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Look at the run after an epoch; ``run.epoch`` counts from 1 here."""

    def on_step_end(self, run: TrainingRun) -> None:
        """Look at the run after a step. Not called inside a CUDA graph."""


def train(
    fleet: Fleet,
    task: Task,
    recipe: Training,
    seeds: Sequence[int],
    *,
    masks: Masks | None = None,
    bits: Sequence[int | None] = (),
    epochs: int | None = None,
    engine: Engine = PLAINEST,
    threads: int | None = 1,
    callback: Callback | None = None,
) -> TrainingRun:
    """Train every member of a fleet, in place.

    What a member is trained on depends on its own seed alone, not on its companions. The mode of
    the nets (training or evaluation), the state of random number generators and the settings of
    PyTorch are left as they were.

    Args:
        fleet: the nets.
        task: the data.
        recipe: optimizer and schedule.
        seeds: of the members' orders and augmentation of the data, one a member.
        masks: weights to keep, bool [M, ...] by name; the others are zero from now on.
        bits: of quantized weights, one entry a member; None leaves a member as it is.
        epochs: number of epochs after which to stop; None trains to the end of the recipe.
        engine: precision of a step, and whether it is recorded as a CUDA graph.
        threads: of PyTorch on a CPU; None leaves them.
        callback: what else to do at the start, before and after epochs.

    Returns:
        The run; ``run.epoch`` tells how many epochs are done.

    Raises:
        ThreeRegimeError: more examples in a batch than there are.
    """
    callback = callback or Callback()
    with compute_settings(fleet.device, threads), _random_state_kept(fleet.device):
        run = TrainingRun(fleet, task.loader(seeds, recipe.batch_size), recipe, engine)
        run.prune(masks or {})
        run.quantize(bits)
        callback.on_start(run)
        if type(callback).on_step_end is not Callback.on_step_end:
            _report_steps(run, callback)
        last = run.epochs if epochs is None else epochs
        while run.epoch < last and callback.may_continue(run):
            run.run_epoch()
            callback.on_epoch_end(run)
    return run


def _report_steps(run: TrainingRun, callback: Callback) -> None:
    step = run.advance

    def advance(*draws: torch.Tensor) -> None:
        step(*draws)
        callback.on_step_end(run)

    run.advance = advance


def _random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Return a context after which the generators are where they were: dropout draws from them."""
    devices = [device] if device.type == "cuda" else []
    return torch.random.fork_rng(devices=devices)
