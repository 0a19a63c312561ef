"""A short retraining for any net, and the range test that finds its learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from threeregime._fields import require
from threeregime.data import IGNORED_TARGET, Task
from threeregime.fleet import Fleet
from threeregime.protocol import Retraining, Training
from threeregime.pruning import Masks
from threeregime.training.evaluation import evaluate_outputs
from threeregime.training.loop import Callback, train

TARGET_STEPS = 500
"""Default number of steps of a short retraining, within 2 to 20 epochs."""
BATCH_SIZE = 32
RATES = {"sgd": (0.01, 0.02, 0.05, 0.1, 0.2, 0.4), "adam": (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
"""Learning rates that the range test tries, by optimizer."""
RANGE_STEPS = 50
"""Training steps at each rate, or those of the whole training if these are fewer."""
EXAMPLES = 512
"""Training examples, or positions, that the losses are measured on."""
TOLERANCE = 1.1
"""A rate is good if its loss is at most this multiple of the best one, plus `SLACK`."""
SLACK = 0.02


def default_retraining(
    examples: int,
    batch_norm: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
) -> Retraining:
    """Return a short retraining that suits most nets.

    Args:
        examples: number of training examples.
        batch_norm: whether the net has batch norm.
        epochs: default: as many as make 500 steps, from 2 to 20.
        batch_size: default: 32, or an eighth of the examples if these are few.
        optimizer: default: sgd (momentum 0.9) with batch norm, as in the paper, else adam.
        lr: default: the smallest of `RATES`, in place of one that :func:`largest_good_rates` finds.
            It falls to a tenth after half of the epochs, and again after three quarters.
        weight_decay: default: none.

    Raises:
        ThreeRegimeError: a value that is not allowed.
    """
    if optimizer is None:
        optimizer = "sgd" if batch_norm else "adam"
    if batch_size is None:
        batch_size = max(2, min(BATCH_SIZE, examples // 8))
    allowed = f"from 2 to the number of training examples, {examples}"
    require(2 <= batch_size <= examples, "batch_size", batch_size, allowed)
    if epochs is None:
        epochs = min(20, max(2, -(-TARGET_STEPS // (examples // batch_size))))
    require(epochs >= 1, "epochs", epochs, "1 or more")
    milestones = sorted({m for m in (epochs // 2, 3 * epochs // 4) if 0 < m < epochs})
    return Retraining(
        lr=RATES.get(optimizer, (1e-3,))[0] if lr is None else lr,
        weight_decay=weight_decay or 0.0,
        batch_size=batch_size,
        epochs=epochs,
        milestones=tuple(milestones),
        optimizer=optimizer,
    )


def largest_good_rates(
    fleet: Fleet,
    task: Task,
    recipe: Training,
    seeds: Sequence[int],
    rates: Sequence[float],
    *,
    masks: Masks | None = None,
    threads: int | None = 1,
    callback: Callback | None = None,
) -> list[float]:
    """Return the largest learning rate at which each member of a fleet still learns well.

    Every member is trained for :func:`range_steps` at each rate, from the same start. Large rates
    are wanted since retraining that is too cold leaves all copies of a net where they began, so
    that they are connected and alike whatever the net.

    Args:
        fleet: the nets; they stay unchanged.
        task: the data.
        recipe: the training; its rate and its schedule are not used.
        seeds: seeds of the order of the examples, one per member.
        rates: the rates to try, in any order.
        masks: masks of the weights to keep, bool [M, ...] by name.
        threads: number of PyTorch's threads on a CPU; None leaves it.
        callback: hooks of the trainings, as of :func:`train`.

    Returns:
        A rate for each member: the largest whose training loss is at most 1.1 times the best one
        plus 0.02; the smallest rate for a member that diverges at all of them.
    """
    ascending, losses, steps = sorted(rates), [], range_steps(task, recipe)
    for rate in ascending:
        with torch.random.fork_rng(devices=[]):  # building a net draws its weights
            trial = fleet.with_state(fleet.state())
        short = replace(recipe, lr=rate, milestones=(), epochs=1, iterations=steps)
        train(trial, task, short, seeds, masks=masks, threads=threads, callback=callback)
        losses.append(_training_losses(trial, task))
    table = torch.stack(losses)  # [rates, M]
    good = table.isfinite() & (table <= TOLERANCE * table.amin(dim=0) + SLACK)
    last = (torch.arange(len(ascending))[:, None] * good).amax(dim=0)
    return [ascending[number] for number in last.tolist()]


def range_steps(task: Task, recipe: Training) -> int:
    """Return the steps of the range test at each rate: 50, or the whole training's if fewer."""
    return min(RANGE_STEPS, recipe.steps(task.count // recipe.batch_size))


def _training_losses(fleet: Fleet, task: Task) -> Tensor:
    """Return each member's loss on the first training examples: [M], infinite if it diverged."""
    outputs = evaluate_outputs(fleet, task, EXAMPLES).cpu()
    _, first = next(task.evaluation_batches(True, torch.float32, EXAMPLES, EXAMPLES))
    targets = first[first != IGNORED_TARGET].cpu()[: outputs.shape[1]]
    losses = [task.loss(member[None], targets[None], 0.0) for member in outputs]
    return torch.stack(losses).double().nan_to_num(nan=torch.inf)
