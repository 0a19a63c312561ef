"""Tasks made of a user's tensors: inputs and targets of a training and a test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from threeregime.data.task import IGNORED_TARGET, Task
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class TensorSplit:
    """Inputs [n, ...] and int64 targets [n] or [n, positions], in random order.

    ``available`` is the number of examples that these were drawn from; None if it is unknown.
    """

    inputs: Tensor
    targets: Tensor
    available: int | None

    def to(self, device: torch.device | str) -> TensorSplit:
        """Return the same split on ``device``."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


@dataclass(frozen=True)
class TensorTask(Task):
    """A task of a user's tensors; ``test`` may be missing.

    Raises:
        ThreeRegimeError: a label outside the classes, or test inputs of another shape.
    """

    kind: ClassVar[str] = "examples"
    train: TensorSplit
    test: TensorSplit | None
    classes: int

    def __post_init__(self) -> None:
        for split, title in ((self.train, "training"), (self.test, "test")):
            if split is not None:
                self._check(split, title)

    def _check(self, split: TensorSplit, title: str) -> None:
        invalid = (split.targets < 0) | (split.targets >= self.classes)
        if split.targets.dim() == 2:  # positions of a sentence may be padding
            invalid &= split.targets != IGNORED_TARGET
        if invalid.any():
            raise ThreeRegimeError(
                f"the {title} label {int(split.targets[invalid][0])} is not allowed: the net has "
                f"{self.classes} outputs, for the labels 0 to {self.classes - 1}"
            )
        if (split.targets == IGNORED_TARGET).all():
            raise ThreeRegimeError(f"no {title} label is known: all are {IGNORED_TARGET}")
        shape, training_shape = (tuple(s.inputs.shape[1:]) for s in (split, self.train))
        if shape != training_shape:
            raise ThreeRegimeError(
                f"test inputs are of shape {shape}, training inputs of {training_shape}: "
                "give both the same shape"
            )

    @property
    def net_sizes(self) -> tuple[int, int]:
        """First dimension of an input, or 1 where it has none, and classes."""
        shape = self.train.inputs.shape
        return shape[1] if len(shape) > 1 else 1, self.classes

    def split(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of a split."""
        split = self.train if train else self.test
        assert split is not None, "there are no test examples"
        return split.inputs, split.targets

    def prepare(self, examples: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cast the inputs."""
        inputs, targets = examples
        return cast_inputs(inputs, dtype), targets

    def reduced(self, examples: int | None, size: int | None) -> TensorTask:
        """Return the task with the first training examples; their size cannot change."""
        if size is not None:
            raise ThreeRegimeError(
                f"data.size = {size} is not allowed: {self.name} has examples of one size"
            )
        inputs, targets = self.train.inputs[:examples], self.train.targets[:examples]
        return replace(self, train=replace(self.train, inputs=inputs, targets=targets))

    def dummy_input(self, batch: int) -> Tensor:
        """Return inputs [batch, ...] of zeros."""
        return torch.zeros_like(self.train.inputs[:1]).expand(batch, *self.train.inputs.shape[1:])


def cast_inputs(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Cast floating-point inputs to the precision of the nets; integers (tokens) stay integers."""
    return inputs.to(dtype) if inputs.is_floating_point() else inputs
