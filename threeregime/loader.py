"""Augmented batches for a whole fleet, made where the data lie, and their random streams."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data import Dataset, load
from threeregime.errors import ThreeRegimeError
from threeregime.protocol import Data


@functools.cache
def resident(wanted: Data, data_dir: Path, download: bool, device: str) -> Dataset:
    """The data set of a protocol on the device, loaded once a process."""
    return load(wanted.name, data_dir, download).reduced(wanted.images, wanted.size).to(device)


def stream(*parts: str | int) -> int:
    """Seed of the random stream with the given name: 63 bits, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


Draws = tuple[Tensor, Tensor, Tensor]


class Loader:
    """Augmented batches for the members of a fleet, each from its own random stream.

    What a member sees depends on its seed and the epoch alone: not on its companions, not on the
    device (draws are made on the CPU), and not on where a run was interrupted.
    """

    def __init__(
        self, data: Dataset, seeds: Sequence[int], batch_size: int, crop: int, flip: bool
    ) -> None:
        count = len(data.train_labels)
        if batch_size > count:
            raise ThreeRegimeError(
                f"batch_size = {batch_size} is not allowed: {data.name} has {count} training images"
            )
        self.data, self.seeds, self.batch_size = data, list(seeds), batch_size
        self.crop, self.flip = crop, flip
        # The remainder of an epoch is dropped (scripts): a fleet's batches have one shape.
        self.steps = count // batch_size
        # Zero padding before normalisation, as cropping a padded picture does.
        padded = F.pad(data.train_images, (crop, crop, crop, crop))
        self.padded = padded.permute(0, 2, 3, 1).contiguous()
        self._drawn: tuple[int, Draws] | None = None

    def draw(self, epoch: int) -> Draws:
        """Draw one epoch: order [members, count], crop offsets [members, count, 2], flips.

        The epoch drawn last is kept, so that it can be drawn ahead of its time.
        """
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = (epoch, self._draw(epoch))
        return self._drawn[1]

    def _draw(self, epoch: int) -> Draws:
        count = len(self.data.train_labels)
        draws = []
        for seed in self.seeds:
            generator = torch.Generator().manual_seed(stream(seed, epoch))
            order = torch.randperm(count, generator=generator)
            offset = torch.randint(2 * self.crop + 1, (count, 2), generator=generator)
            mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
            draws.append((order, offset, mirrored))
        stacked = [torch.stack(part) for part in zip(*draws, strict=True)]
        device = self.padded.device
        if device.type == "cuda":  # a copy from pinned memory does not wait for the steps queued
            stacked = [part.pin_memory().to(device, non_blocking=True) for part in stacked]
        order, offset, mirrored = stacked
        return order, offset, mirrored

    def part(self, draws: Draws, step: int) -> Draws:
        """What a step needs of an epoch's draws: the same with [batch, members] in front."""
        part = slice(step * self.batch_size, (step + 1) * self.batch_size)
        # The batch comes first because a fleet's nets lie side by side in it.
        order, offset, mirrored = (draw[:, part].transpose(0, 1) for draw in draws)
        return order, offset, mirrored

    def batch(self, part: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [batch, members, channels, h, w] (channels last in memory), labels [m, b]."""
        order, offset, mirrored = part
        height, width = self.data.train_images.shape[2:]
        device = self.padded.device
        rows = offset[..., :1] + torch.arange(height, device=device)
        across = torch.arange(width, device=device)
        across = torch.where(mirrored[..., None], width - 1 - across, across)
        columns = offset[..., 1:] + across
        # -> [batch, height, width, members, channels], the order in memory that the fleet wants
        pixels = self.padded[
            order[:, None, None, :],
            rows.permute(0, 2, 1)[:, :, None, :],
            columns.permute(0, 2, 1)[:, None, :, :],
        ]
        images = self.data.normalise(pixels, dtype).permute(0, 3, 4, 1, 2)
        return images, self.data.train_labels[order].transpose(0, 1)


def plain_images(data: Dataset, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Un-augmented uint8 images [count, channels, h, w] normalised, same shape."""
    return data.normalise(images.permute(0, 2, 3, 1), dtype).permute(0, 3, 1, 2)
