"""Errors and outputs of a fleet, in evaluation mode."""

from __future__ import annotations

import torch
from torch import Tensor

from threeregime.data import Task
from threeregime.fleet import Fleet


@torch.no_grad()
def evaluate_errors(fleet: Fleet, task: Task, train: bool) -> Tensor:
    """Return the error of every member on a whole split, without augmentation.

    Args:
        fleet: the nets; their mode is left as it was.
        task: the data.
        train: whether the training split, else the test split.

    Returns:
        Fractions [M], float64. NaN for a member with a parameter or statistic that is not finite.
    """
    with fleet.mode(training=False):
        return task.errors(fleet, train).masked_fill(~fleet.finite_members(), torch.nan)


@torch.no_grad()
def evaluate_outputs(fleet: Fleet, task: Task, samples: int) -> Tensor:
    """Return the logits of every member for the first training examples.

    Args:
        fleet: the nets; their mode is left as it was.
        task: the data.
        samples: number of examples, or of places in sentences.

    Returns:
        [M, samples, classes], or fewer samples where there are not as many.
    """
    with fleet.mode(training=False):
        return task.outputs(fleet, samples)
