"""Tasks made of a user's tensors and arrays: inputs and targets of a training and a test split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from threeregime.data.task import EVALUATION_BATCH, IGNORED_TARGET, Task, even_batches
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class TensorSplit:
    """Inputs [n, ...] and int64 targets [n] or [n, positions], in random order.

    Attributes:
        inputs: the inputs, or the numbers of the examples where ``fields`` holds their inputs.
        targets: the class of each example or position.
        available: number of examples that these were drawn from; None if it is unknown.
        names: names of the classes, if the labels were texts; else empty.
        fields: inputs by name, each [n, ...], if an example has several; else None.
    """

    inputs: Tensor
    targets: Tensor
    available: int | None
    names: tuple[str, ...] = ()
    fields: Mapping[str, Tensor] | None = None

    def to(self, device: torch.device | str) -> TensorSplit:
        """Return the same split on ``device``."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


@dataclass(frozen=True)
class TensorTask(Task):
    """A task of a user's tensors; ``test`` may be missing.

    Attributes:
        train: the training split.
        test: the test split, or None.
        classes: number of outputs of a net.
        criterion: loss of one net, a scalar from outputs [batch, ..., classes] and targets
            [batch, ...]; None: cross-entropy.
        report: called with the number of examples of each batch that is evaluated.

    Raises:
        ThreeRegimeError: a label outside the classes, or test inputs of another shape.
    """

    kind: ClassVar[str] = "examples"
    train: TensorSplit
    test: TensorSplit | None
    classes: int
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None
    report: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        for split, title in ((self.train, "training"), (self.test, "test")):
            if split is not None:
                self._check(split, title)

    def _check(self, split: TensorSplit, title: str) -> None:
        invalid = (split.targets < 0) | (split.targets >= self.classes)
        if split.targets.dim() == 2:  # positions of a sentence may be padding
            invalid &= split.targets != IGNORED_TARGET
        if invalid.any():
            known = split.targets[split.targets != IGNORED_TARGET]
            from_one = int(known.min()) == 1 and int(known.max()) == self.classes
            hint = "; yours begin at 1: subtract 1" if from_one else ""
            raise ThreeRegimeError(
                f"the {title} label {int(split.targets[invalid][0])} is not allowed: the net has "
                f"{self.classes} outputs, for the labels 0 to {self.classes - 1}{hint}"
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

    def evaluation_batches(
        self,
        train: bool,
        dtype: torch.dtype,
        first: int | None = None,
        batch_size: int = EVALUATION_BATCH,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and targets of a split, or of its ``first`` examples.

        Batches are of nearly equal size, so that none has a single example: nets that squeeze
        their activations fail on one.
        """
        for examples in even_batches([t[:first] for t in self.split(train)], batch_size):
            self._report(len(examples[0]))
            yield self.prepare(examples, dtype)

    def input_batches(self, batch_size: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the training inputs in batches of nearly equal size, at most ``batch_size``."""
        for inputs in super().input_batches(batch_size, dtype):
            self._report(len(inputs))
            yield inputs

    def _report(self, examples: int) -> None:
        if self.report is not None:
            self.report(examples)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the sum over members of each one's loss, by ``criterion`` if there is one."""
        if self.criterion is None:
            return super().loss(outputs, targets, smoothing)
        losses = [self.criterion(*pair) for pair in zip(outputs, targets, strict=True)]
        return torch.stack(losses).sum()

    def hold_out(self, share: float = 0.2) -> tuple[TensorTask, TensorTask]:
        """Hold out the last training examples, a share of them.

        Returns:
            The task without them, and the same task with them as its test split.
        """
        kept = self.count - max(1, round(share * self.count))
        train, held_out = (
            replace(self.train, inputs=self.train.inputs[rows], targets=self.train.targets[rows])
            for rows in (slice(kept), slice(kept, None))
        )
        return replace(self, train=train), replace(self, train=train, test=held_out)

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


def as_tensor(values: Any) -> Tensor:
    """Return an array of any layout, byte order and library as a tensor.

    Raises:
        ThreeRegimeError: a sparse array, or one of texts or other objects.
    """
    if isinstance(values, Tensor):
        dense = values.to_dense() if values.layout != torch.strided else values
        return dense.clone() if dense.is_inference() else dense
    if hasattr(values, "toarray"):
        values = values.toarray()
    array = np.asarray(values)
    if array.dtype == object:
        array = np.stack([np.asarray(value) for value in array])
    if array.dtype.kind not in "biufc":
        raise ThreeRegimeError(f"inputs of type {array.dtype} are not allowed: numbers")
    native = array.dtype.newbyteorder("=")
    if native == np.longdouble and native.itemsize > 8:
        native = np.dtype(np.float64)
    array = np.ascontiguousarray(array, dtype=native).reshape(array.shape)
    return torch.from_numpy(array if array.flags.writeable else array.copy())
