"""Images and labels as uint8 tensors that live on the device."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data.task import EVALUATION_BATCH, Batches, Draws, Task
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Dataset(Task):
    """Images and labels of both splits.

    ``train_images`` and ``test_images`` are uint8 [count, channels, height, width]; labels are
    int64 [count]; ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]. ``crop`` and
    ``flip`` augment the training images, see :meth:`augmented`.
    """

    kind: ClassVar[str] = "images"
    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    crop: int = 0
    flip: bool = False

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return self.train_images.shape[1]

    @property
    def count(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def net_sizes(self) -> tuple[int, int]:
        """Channels and classes."""
        return self.channels, self.classes

    def to(self, device: torch.device | str) -> Dataset:
        """Return the same data set with its tensors on ``device``."""
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def reduced(self, images: int | None, size: int | None) -> Dataset:
        """The same data set with fewer training images and smaller ones.

        Args:
            images: training images to keep, the first of each class in equal number; None: all.
            size: pixels a side, by averaging square blocks; None: as they are.

        Raises:
            ThreeRegimeError: more images than there are, or a size that does not divide theirs.
        """
        made = self
        if images is not None:
            each = images // self.classes
            of_class = (self.train_labels == c for c in range(self.classes))
            kept = torch.cat([mask.nonzero().flatten()[:each] for mask in of_class]).sort().values
            if each * self.classes != images or len(kept) != images:
                raise ThreeRegimeError(
                    f"data.images = {images} is not allowed: {self.name} has {self.classes} "
                    f"classes and {len(self.train_labels)} training images"
                )
            made = replace(
                made, train_images=self.train_images[kept], train_labels=self.train_labels[kept]
            )
        if size is not None:
            made = replace(
                made,
                train_images=_shrink(made.train_images, size),
                test_images=_shrink(made.test_images, size),
            )
        return made

    def dummy_input(self, batch: int) -> Tensor:
        """Images [batch, channels, height, width]."""
        return torch.empty(batch, *self.train_images.shape[1:])

    def augmented(self, crop: int, flip: bool) -> Dataset:
        """Return the same data set, its training images cropped and flipped at random."""
        return replace(self, crop=crop, flip=flip)

    def loader(self, seeds: Sequence[int], batch_size: int) -> ImageBatches:
        """Return batches of training images, augmented as the data set says."""
        return ImageBatches(self, seeds, batch_size, self.crop, self.flip)

    def evaluation_batches(
        self, train: bool, dtype: torch.dtype, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as they are, normalised [batch, channels, height, width], with labels [batch]."""
        images = (self.train_images if train else self.test_images)[:first]
        labels = (self.train_labels if train else self.test_labels)[:first]
        size = EVALUATION_BATCH
        for pixels, truth in zip(images.split(size), labels.split(size), strict=True):
            yield plain_images(self, pixels, dtype), truth

    def input_batches(self, most: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Images as they are, normalised [most or fewer, channels, height, width]."""
        for pixels in self.train_images.tensor_split(-(-self.count // most)):
            yield plain_images(self, pixels, dtype)

    def loss(self, outputs: Tensor, truth: Tensor, smoothing: float) -> Tensor:
        """Mean over a member's images, summed over members."""
        total = F.cross_entropy(
            outputs.flatten(0, 1), truth.flatten(), reduction="sum", label_smoothing=smoothing
        )
        return total / truth.shape[1]

    def normalise(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn uint8 pixels with channels last [..., channels] into normalised floats."""
        mean, std = (_constant(v, dtype, pixels.device) for v in (self.mean, self.std))
        return (pixels.to(dtype) / 255 - mean) / std


class ImageBatches(Batches):
    """Batches of images, each cropped at random after zero padding, and flipped."""

    def __init__(
        self, data: Dataset, seeds: Sequence[int], batch_size: int, crop: int, flip: bool
    ) -> None:
        super().__init__(data, seeds, batch_size, data.train_images.device)
        self.data, self.crop, self.flip = data, crop, flip
        # Zero padding before normalisation, as cropping a padded picture does.
        padded = F.pad(data.train_images, (crop, crop, crop, crop))
        self.padded = padded.permute(0, 2, 3, 1).contiguous()

    def draw_member(self, generator: torch.Generator) -> Draws:
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


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Made once: a copy to a GPU waits for it, and cannot be part of a recorded step."""
    return torch.tensor(values, dtype=dtype, device=device)


def _shrink(images: Tensor, size: int) -> Tensor:
    height, width = images.shape[2:]
    if height != width or height % size:
        raise ThreeRegimeError(
            f"data.size = {size} is not allowed: it has to divide the {height} x {width} images"
        )
    parts = [F.avg_pool2d(part.float(), height // size) for part in images.split(4096)]
    return torch.cat(parts).round().to(torch.uint8)
