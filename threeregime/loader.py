"""Augmented images for a whole fleet, made where the data lie."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data import DATASETS, load
from threeregime.images import Dataset
from threeregime.protocol import Data
from threeregime.task import Batches, Draws, Task
from threeregime.translation import TRANSLATIONS


@functools.cache
def resident(wanted: Data, data_dir: Path, download: bool, device: str) -> Task:
    """The data set of a protocol on the device, loaded once a process."""
    if wanted.name in TRANSLATIONS:
        whole: Task = TRANSLATIONS[wanted.name].load(data_dir, download)
    else:
        whole = load(wanted.name, data_dir, download)
    return whole.reduced(wanted.images, wanted.size).to(device)


def outline(wanted: Data, device: str = "meta") -> Task:
    """A data set's sizes without its contents, known before it is there.

    A folder of pictures has to be looked at all the same.
    """
    if wanted.name in TRANSLATIONS:
        return TRANSLATIONS[wanted.name].outline(wanted, device)
    if wanted.name in DATASETS:
        return DATASETS[wanted.name].outline(wanted, device)
    return resident(wanted, Path(), False, device)


class Loader(Batches):
    """Batches of images, each cropped at random after zero padding, and flipped."""

    def __init__(
        self, data: Dataset, seeds: Sequence[int], batch_size: int, crop: int, flip: bool
    ) -> None:
        super().__init__(data, seeds, batch_size, data.train_images.device)
        self.data, self.crop, self.flip = data, crop, flip
        # Zero padding before normalisation, as cropping a padded picture does.
        padded = F.pad(data.train_images, (crop, crop, crop, crop))
        self.padded = padded.permute(0, 2, 3, 1).contiguous()

    def drawn(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch: order [count], crop offsets [count, 2], flips [count]."""
        count = self.data.count
        order = torch.randperm(count, generator=generator)
        offset = torch.randint(2 * self.crop + 1, (count, 2), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return order, offset, mirrored

    def batch(self, part: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [batch, members, channels, h, w] (channels last in memory), labels [m, b]."""
        order, offset, mirrored = part
        height, width = self.data.train_images.shape[2:]
        rows = offset[..., :1] + torch.arange(height, device=self.device)
        across = torch.arange(width, device=self.device)
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
