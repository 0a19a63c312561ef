"""What nets learn and how they are judged: the side of a data set that training and measuring see.

:class:`threeregime.data.images.Dataset` is pictures and their classes,
:class:`threeregime.data.translation.Translation` sentences and their translations. All that a fleet
needs to know of either is a :class:`Task` and its :class:`Batches`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Protocol, Self

import torch
from torch import Tensor

from threeregime.errors import ThreeRegimeError

EVALUATION_BATCH = 256
IGNORED_TARGET = -100
"""The class of what is not to be guessed: the padding of a sentence. PyTorch's losses skip it."""


class Nets(Protocol):
    """What a task needs to know of the nets that it evaluates: a fleet of them."""

    members: int
    device: torch.device
    dtype: torch.dtype

    def broadcast(self, inputs: Tensor) -> Tensor:
        """Return inputs [batch, ...] for every member: [batch, M, ...]."""
        ...

    def logits(self, *inputs: Tensor) -> Tensor:
        """Return outputs [M, batch, ..., classes] for inputs [batch, M, ...]."""
        ...


class Task(ABC):
    """Examples of both splits, what a net is to make of them, and by what it is judged.

    A truth is int64: the class of an example, [], or of each place of a sentence, [places].
    """

    kind: ClassVar[str]
    """What the examples are: "images" or "sentences"."""
    name: str

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of training examples."""

    @property
    @abstractmethod
    def net_sizes(self) -> tuple[int, int]:
        """What a net has to know of what goes in, and the number of classes that come out.

        Of images it is the channels, of sentences the number of places of the source.
        """

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Return the same with its tensors on ``device``."""

    @abstractmethod
    def reduced(self, examples: int | None, size: int | None) -> Task:
        """The same with fewer training examples, and smaller ones; None: as they are."""

    @abstractmethod
    def dummy_input(self, batch: int) -> Tensor:
        """A plain net's input of the right shape, [batch, ...], with nothing in it."""

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
        """Refuse a batch for which there are not enough training examples.

        Raises:
            ThreeRegimeError: more examples in a batch than there are.
        """
        if batch_size > self.count:
            raise ThreeRegimeError(
                f"batch_size = {batch_size} is not allowed: {self.name} has {self.count} training "
                f"{self.kind}"
            )

    @abstractmethod
    def loader(self, seeds: Sequence[int], batch_size: int) -> Batches:
        """Return batches of training examples for a fleet, one random stream a member."""

    @abstractmethod
    def evaluation_batches(
        self, train: bool, dtype: torch.dtype, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """A whole split, or the first of it, un-augmented: inputs [batch, ...] with their truth."""

    @abstractmethod
    def input_batches(self, most: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """The training inputs, un-augmented, in batches of nearly equal size: [most or fewer, ...].

        Statistics that weigh each batch alike, or by its size, want no small one at the end.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
        """Sum over members of each one's mean cross-entropy, so that none feels the others.

        Args:
            outputs: [M, batch, ..., classes].
            truth: [M, batch, ...].
            smoothing: share of each target that is spread over all classes (label smoothing).
        """

    def errors(self, fleet: Nets, train: bool) -> Tensor:
        """Error of every member on a whole split: [M], float64.

        Here the share of wrong guesses among all that are to be made.
        """
        wrong = torch.zeros(fleet.members, dtype=torch.float64, device=fleet.device)
        known = torch.zeros((), dtype=torch.int64, device=fleet.device)
        for inputs, truth in self.evaluation_batches(train, fleet.dtype):
            guess = fleet.logits(fleet.broadcast(inputs)).argmax(dim=-1)
            wrong += ((guess != truth) & (truth != IGNORED_TARGET)).flatten(1).sum(dim=1)
            known += (truth != IGNORED_TARGET).sum()
        return wrong / known

    def outputs(self, fleet: Nets, samples: int) -> Tensor:
        """Logits of every member for the first guesses to be made in training.

        [M, samples, classes], or fewer where there are not that many.
        """
        parts: list[Tensor] = []
        for inputs, truth in self.evaluation_batches(True, fleet.dtype, samples):
            parts.append(fleet.logits(fleet.broadcast(inputs))[:, truth != IGNORED_TARGET])
            if sum(part.shape[1] for part in parts) >= samples:
                break
        return torch.cat(parts, dim=1)[:, :samples]


def stream_seed(*parts: str | int) -> int:
    """Seed of the random stream with the given name: 63 bits, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


Draws = tuple[Tensor, ...]


class Batches(ABC):
    """Training batches for the members of a fleet, each from its own random stream.

    What a member sees depends on its seed and the epoch alone: not on its companions, not on the
    device (draws are made on the CPU), and not on where a run was interrupted.
    """

    def __init__(
        self, data: Task, seeds: Sequence[int], batch_size: int, device: torch.device
    ) -> None:
        data.check_batch(batch_size)
        self.task, self.seeds, self.batch_size, self.device = data, list(seeds), batch_size, device
        # The remainder of an epoch is dropped (scripts): a fleet's batches have one shape.
        self.steps = data.count // batch_size
        self._drawn: tuple[int, Draws] | None = None

    @abstractmethod
    def draw_member(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch, the order first: tensors [count, ...]."""

    @abstractmethod
    def batch(self, part: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """A step's inputs [batch, members, ...] and truth [members, batch, ...], from its draws."""

    def draw(self, epoch: int) -> Draws:
        """Draw one epoch: tensors [members, count, ...].

        The epoch drawn last is kept, so that it can be drawn ahead of its time.
        """
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(epoch))
        return self._drawn[1]

    def _draw(self, epoch: int) -> Draws:
        draws = [
            self.draw_member(torch.Generator().manual_seed(stream_seed(seed, epoch)))
            for seed in self.seeds
        ]
        stacked = [torch.stack(part) for part in zip(*draws, strict=True)]
        if self.device.type == "cuda":  # a copy from pinned memory does not wait for steps queued
            stacked = [part.pin_memory().to(self.device, non_blocking=True) for part in stacked]
        return tuple(stacked)

    def step_draws(self, draws: Draws, step: int) -> Draws:
        """What a step needs of an epoch's draws: the same with [batch, members] in front."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        # The batch comes first because a fleet's nets lie side by side in it.
        return tuple(draw[:, part].transpose(0, 1) for draw in draws)
