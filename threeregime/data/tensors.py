"""Examples of a user's own as a task: two tensors a split, whatever they stand for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data.task import EVALUATION_BATCH, IGNORED_TARGET, Batches, Draws, Task
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TensorSplit:
    """Inputs [n, ...] with their truth, int64 [n] or [n, places], in random order.

    ``found`` is how many there were to draw them from; None where that is not known.
    """

    inputs: Tensor
    truth: Tensor
    found: int | None

    def to(self, device: torch.device | str) -> TensorSplit:
        """Return the same on ``device``."""
        return replace(self, inputs=self.inputs.to(device), truth=self.truth.to(device))


@dataclass(frozen=True)
class TensorTask(Task):
    """Examples of a user's own as a task; ``test`` may be missing.

    Raises:
        ThreeRegimeError: a label that is none of the classes, or test examples unlike the others.
    """

    kind: ClassVar[str] = "examples"
    name: str
    train: TensorSplit
    test: TensorSplit | None
    classes: int

    def __post_init__(self) -> None:
        for split, what in ((self.train, "training"), (self.test, "test")):
            if split is None:
                continue
            wrong = (split.truth < 0) | (split.truth >= self.classes)
            if split.truth.dim() == 2:  # some places of a sentence may be none to guess
                wrong &= split.truth != IGNORED_TARGET
            if wrong.any():
                raise ThreeRegimeError(
                    f"the {what} label {int(split.truth[wrong][0])} is not allowed: the net has "
                    f"{self.classes} outputs, for the labels 0 to {self.classes - 1}"
                )
            if (split.truth == IGNORED_TARGET).all():
                raise ThreeRegimeError(f"no {what} label is known: all are {IGNORED_TARGET}")
            shapes = [tuple(s.inputs.shape[1:]) for s in (split, self.train)]
            if shapes[0] != shapes[1]:
                raise ThreeRegimeError(
                    f"test inputs are of shape {shapes[0]}, training inputs of {shapes[1]}: "
                    "give both alike"
                )

    @property
    def count(self) -> int:
        """Number of training examples."""
        return len(self.train.truth)

    @property
    def net_sizes(self) -> tuple[int, int]:
        """First side of an input, 1 where it has none, and classes."""
        shape = self.train.inputs.shape
        return shape[1] if len(shape) > 1 else 1, self.classes

    def to(self, device: torch.device | str) -> TensorTask:
        """Return the same with its tensors on ``device``."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), test=test)

    def reduced(self, examples: int | None, size: int | None) -> TensorTask:
        """The same with the first so many training examples; they cannot be made smaller."""
        if size is not None:
            raise ThreeRegimeError(f"data.size = {size} is not allowed: {self.name} is as it is")
        kept = replace(
            self.train, inputs=self.train.inputs[:examples], truth=self.train.truth[:examples]
        )
        return replace(self, train=kept)

    def dummy_input(self, batch: int) -> Tensor:
        """Inputs [batch, ...] of the right kind."""
        return torch.zeros_like(self.train.inputs[:1]).expand(batch, *self.train.inputs.shape[1:])

    def loader(self, seeds: Sequence[int], batch_size: int) -> TensorBatches:
        """Examples as they are, in an order of each member's own."""
        return TensorBatches(self, seeds, batch_size)

    def evaluation_batches(
        self, train: bool, dtype: torch.dtype, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A split in its order."""
        split = self.train if train else self.test
        assert split is not None, "there are no test examples"
        parts = (t[:first].split(EVALUATION_BATCH) for t in (split.inputs, split.truth))
        for inputs, truth in zip(*parts, strict=True):
            yield cast_inputs(inputs, dtype), truth

    def input_batches(self, most: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """The training inputs as they are."""
        for part in self.train.inputs.tensor_split(-(-self.count // most)):
            yield cast_inputs(part, dtype)

    def loss(self, outputs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
        """Mean over all that a member is to guess, summed over members."""
        each = F.cross_entropy(
            outputs.flatten(0, -2), truth.flatten(), reduction="none", label_smoothing=smoothing
        )
        each, known = each.view(len(truth), -1), (truth != IGNORED_TARGET).flatten(1)
        return (each.sum(dim=1) / known.sum(dim=1).clamp(min=1)).sum()


class TensorBatches(Batches):
    """Batches of examples as they are."""

    def __init__(self, data: TensorTask, seeds: Sequence[int], batch_size: int) -> None:
        super().__init__(data, seeds, batch_size, data.train.inputs.device)
        self.split = data.train

    def draw_member(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch: its order [count]."""
        return (torch.randperm(self.task.count, generator=generator),)

    def batch(self, part: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Inputs [batch, members, ...] and truth [members, batch, ...]."""
        (order,) = part
        return cast_inputs(self.split.inputs[order], dtype), self.split.truth[order].transpose(0, 1)


def cast_inputs(inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs in the precision that nets compute in; whole numbers, e.g. of words, stay such."""
    return inputs.to(dtype) if inputs.is_floating_point() else inputs
