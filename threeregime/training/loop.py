"""The training loop: one function that trains a fleet, with callbacks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from threeregime.data import Task
from threeregime.fleet import Engine, Fleet, compute_settings
from threeregime.protocol import Training
from threeregime.pruning import Masks
from threeregime.training.run import PLAINEST, TrainingRun


class Callback:
    """Hooks of the training loop; a subclass overrides those it needs."""

    def on_start(self, run: TrainingRun) -> None:
        """Prepare the run before its first epoch, e.g. load a checkpoint."""

    def may_continue(self, run: TrainingRun) -> bool:
        """Return whether to train one more epoch."""
        return True

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Inspect the run after an epoch; ``run.epoch`` is the number of epochs done."""

    def on_step_end(self, run: TrainingRun) -> None:
        """Inspect the run after a step."""


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

    The batches of a member depend on its seed alone, not on its companions. The mode of the nets
    (training or evaluation), the global random state and the settings of PyTorch are restored.

    Args:
        fleet: the nets.
        task: the data.
        recipe: optimizer and schedule.
        seeds: seeds of the order and augmentation of the examples, one per member.
        masks: masks of the weights to keep, bool [M, ...] by name; the others stay zero.
        bits: bits of quantized weights, one entry per member; None leaves a member as it is.
        epochs: number of epochs after which to stop; None trains to the end of the recipe.
        engine: precision of a step, and whether it is recorded as a CUDA graph.
        threads: number of PyTorch's threads on a CPU; None leaves it.
        callback: hooks at the start of the run, before and after epochs, and after steps.

    Returns:
        The run; ``run.epoch`` is the number of epochs done.

    Raises:
        ThreeRegimeError: the batch is larger than the training split.
    """
    callback = callback or Callback()
    # Dropout draws from the global random state.
    generators = torch.random.fork_rng([fleet.device] if fleet.device.type == "cuda" else [])
    with compute_settings(fleet.device, threads), generators:
        run = TrainingRun(fleet, task.loader(seeds, recipe.batch_size), recipe, engine)
        run.prune(masks or {})
        run.quantize(bits)
        callback.on_start(run)
        run.on_step_end = functools.partial(callback.on_step_end, run)
        last = run.epochs if epochs is None else epochs
        while run.epoch < last and callback.may_continue(run):
            run.run_epoch()
            callback.on_epoch_end(run)
    return run
