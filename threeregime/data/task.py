"""Tasks: the examples of a training and a test split, their batches, loss and error."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime._fields import require
from threeregime.errors import ThreeRegimeError

EVALUATION_BATCH = 256
GPU_ACTIVATIONS = 131_072
"""Examples times nets that a GPU evaluates at once: it idles between smaller batches."""
IGNORED_TARGET = -100
"""Target of padding, which losses and errors skip; PyTorch's default ``ignore_index``."""


def even_batches(tensors: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors of equal length alike, into batches of nearly equal size."""
    batches = max(1, -(-len(tensors[0]) // batch_size))
    return zip(*(tensor.tensor_split(batches) for tensor in tensors), strict=True)


class Nets(Protocol):
    """The interface of a fleet that a task needs for evaluation."""

    members: int
    device: torch.device
    dtype: torch.dtype

    def broadcast(self, inputs: Tensor) -> Tensor:
        """Return inputs [batch, ...] for every member: [batch, M, ...]."""
        ...

    def logits(self, *inputs: Tensor) -> Tensor:
        """Return outputs [M, batch, ..., classes] for inputs [batch, M, ...]."""
        ...


@dataclass(frozen=True)
class Task(ABC):
    """Examples of both splits, with the loss and the error of a fleet on them.

    Targets are int64: the class of an example, [], or of each position of a sentence, [positions].
    """

    kind: ClassVar[str]
    """Kind of the examples: "images", "sentences" or "examples"."""
    name: str

    @property
    @abstractmethod
    def net_sizes(self) -> tuple[int, int]:
        """The sizes that a net is built with: that of its input, and the number of classes.

        The size of the input is the number of channels of images, or the length of a source.
        """

    @abstractmethod
    def split(self, train: bool) -> tuple[Tensor, ...]:
        """Return the tensors that store the training or test split, each [count, ...]."""

    @abstractmethod
    def prepare(self, examples: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Turn stored examples into inputs [batch, ...] and targets, without augmentation."""

    @abstractmethod
    def reduced(self, examples: int | None, size: int | None) -> Task:
        """Return the task with fewer training examples and smaller ones; None changes nothing."""

    @abstractmethod
    def dummy_input(self, batch: int) -> Tensor:
        """Return an empty input of a plain net, [batch, ...]."""

    @property
    def count(self) -> int:
        """Number of training examples."""
        return len(self.split(train=True)[0])

    def to(self, device: torch.device | str) -> Self:
        """Return the same task with its tensors on ``device``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{n: v.to(device) for n, v in values.items() if hasattr(v, "to")})

    def augmented(self, crop: int, flip: bool) -> Task:
        """Return the same task, its training examples augmented at random.

        Args:
            crop: zero padding of the random crop, in pixels.
            flip: whether to mirror half of the images left to right.

        Raises:
            ThreeRegimeError: the examples are not images.
        """
        if crop or flip:
            raise ThreeRegimeError(
                f"data.crop = {crop}, data.flip = {flip} are not allowed: {self.name} holds "
                f"{self.kind}; set them to 0 and false"
            )
        return self

    def check_batch(self, batch_size: int) -> None:
        """Refuse a batch that is larger than the training split with a ThreeRegimeError."""
        allowed = f"{self.name} has {self.count} training {self.kind}"
        require(batch_size <= self.count, "batch_size", batch_size, allowed)

    def loader(self, seeds: Sequence[int], batch_size: int) -> Batches:
        """Return batches of training examples for a fleet, one random stream per member."""
        return Batches(self, seeds, batch_size)

    def evaluation_batches(
        self,
        train: bool,
        dtype: torch.dtype,
        first: int | None = None,
        batch_size: int = EVALUATION_BATCH,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs [batch, ...] and targets of a split, or of its ``first`` examples."""
        parts = (tensor[:first].split(batch_size) for tensor in self.split(train))
        for examples in zip(*parts, strict=True):
            yield self.prepare(examples, dtype)

    def input_batches(self, batch_size: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Yield the training inputs in batches of nearly equal size, at most ``batch_size``.

        Statistics averaged over batches would give a small last batch too much weight.
        """
        for examples in even_batches(self.split(train=True), batch_size):
            yield self.prepare(examples, dtype)[0]

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the sum over members of each one's mean cross-entropy.

        The gradient of a member is then independent of the other members.

        Args:
            outputs: [M, batch, ..., classes].
            targets: [M, batch, ...].
            smoothing: share of each target that is spread over all classes (label smoothing).
        """
        losses = F.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=smoothing
        )
        counts = (targets != IGNORED_TARGET).flatten(1).sum(dim=1).clamp(min=1)
        return (losses.view(len(targets), -1).sum(dim=1) / counts).sum()

    def loss_gradient(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the gradient of :meth:`loss` for the outputs, in their shape."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.loss(leaf, targets, smoothing), leaf)
        return gradient

    def errors(self, fleet: Nets, train: bool) -> Tensor:
        """Return every member's share of wrong predictions on a split: [M], float64."""
        wrong = torch.zeros(fleet.members, dtype=torch.float64, device=fleet.device)
        count = torch.zeros((), dtype=torch.int64, device=fleet.device)
        batch = EVALUATION_BATCH
        if fleet.device.type == "cuda":
            batch = max(batch, min(2048, GPU_ACTIVATIONS // fleet.members))
        for inputs, targets in self.evaluation_batches(train, fleet.dtype, batch_size=batch):
            # A search along a dimension that is not the innermost one takes three times as long.
            predictions = fleet.logits(fleet.broadcast(inputs)).contiguous().argmax(dim=-1)
            mask = targets != IGNORED_TARGET
            wrong += ((predictions != targets) & mask).flatten(1).sum(dim=1)
            count += mask.sum()
        return wrong / count

    def outputs(self, fleet: Nets, samples: int) -> Tensor:
        """Return every member's logits for the first training targets.

        [M, samples, classes], or fewer samples where the split has fewer.
        """
        parts: list[Tensor] = []
        for inputs, targets in self.evaluation_batches(True, fleet.dtype, samples):
            parts.append(fleet.logits(fleet.broadcast(inputs))[:, targets != IGNORED_TARGET])
            if sum(part.shape[1] for part in parts) >= samples:
                break
        return torch.cat(parts, dim=1)[:, :samples]


def stream_seed(*parts: str | int) -> int:
    """Return the seed of the random stream with a name: 63 bits, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


Draws = tuple[Tensor, ...]


class Batches:
    """Training batches for the members of a fleet, each from its own random stream.

    The batches of a member depend on its seed and the epoch alone: not on its companions, not on
    the device (numbers are drawn on the CPU), and not on where a run was interrupted.

    Raises:
        ThreeRegimeError: the batch is larger than the training split.
    """

    def __init__(self, task: Task, seeds: Sequence[int], batch_size: int) -> None:
        task.check_batch(batch_size)
        self.task, self.seeds, self.batch_size = task, list(seeds), batch_size
        self.device = task.split(train=True)[0].device
        # The remainder of an epoch is dropped (scripts): a fleet's batches have one shape.
        self.steps = task.count // batch_size
        self._last_draw: tuple[int, Draws] | None = None

    def draw_member(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch: its order [count], then what augmentation needs."""
        return (torch.randperm(self.task.count, generator=generator),)

    def batch(self, draws: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return inputs [batch, M, ...] and targets [M, batch, ...] from a step's draws."""
        examples = [tensor[draws[0]] for tensor in self.task.split(train=True)]
        inputs, targets = self.task.prepare(examples, dtype)
        return inputs, targets.transpose(0, 1)

    def draw(self, epoch: int) -> Draws:
        """Draw one epoch: tensors [M, count, ...].

        The last epoch drawn is stored, so that it can be drawn ahead of time.
        """
        if self._last_draw is None or self._last_draw[0] != epoch:
            self._last_draw = (epoch, self._draw(epoch))
        return self._last_draw[1]

    def _draw(self, epoch: int) -> Draws:
        draws = [
            self.draw_member(torch.Generator().manual_seed(stream_seed(seed, epoch)))
            for seed in self.seeds
        ]
        stacked = [torch.stack(part) for part in zip(*draws, strict=True)]
        if self.device.type == "cuda":  # a copy from pinned memory does not wait for queued steps
            stacked = [part.pin_memory().to(self.device, non_blocking=True) for part in stacked]
        return tuple(stacked)

    def step_draws(self, draws: Draws, step: int) -> Draws:
        """Return the part of an epoch's draws that a step needs: [batch, M, ...]."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        # The batch comes first because the nets of a fleet lie side by side in it.
        return tuple(draw[:, part].transpose(0, 1) for draw in draws)
