"""Image classification: images and labels as uint8 tensors that live on the device."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime._fields import require
from threeregime.data.task import Batches, Draws, Task
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class Dataset(Task):
    """Images and labels of both splits.

    ``train_images`` and ``test_images`` are uint8 [count, channels, height, width]; labels are
    int64 [count]; ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]. ``crop`` and
    ``flip`` augment the training images, see :meth:`augmented`.
    """

    kind: ClassVar[str] = "images"
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
    def net_sizes(self) -> tuple[int, int]:
        """Channels and classes."""
        return self.channels, self.classes

    def split(self, train: bool) -> tuple[Tensor, Tensor]:
        """Return images and labels of a split."""
        if train:
            return self.train_images, self.train_labels
        return self.test_images, self.test_labels

    def prepare(self, examples: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Normalise the images."""
        images, labels = examples
        return plain_images(self, images, dtype), labels

    def reduced(self, examples: int | None, size: int | None) -> Dataset:
        """Return the dataset with fewer training images and smaller ones.

        Args:
            examples: number of training images, the first of each class in equal number; None:
                all.
            size: height and width in pixels, by averaging square blocks; None: as they are.

        Raises:
            ThreeRegimeError: more images than there are, or a size that does not divide theirs.
        """
        dataset = self
        if examples is not None:
            per_class = examples // self.classes
            classes = (self.train_labels == label for label in range(self.classes))
            first = torch.cat([members.nonzero().flatten()[:per_class] for members in classes])
            if per_class * self.classes != examples or len(first) != examples:
                raise ThreeRegimeError(
                    f"data.images = {examples} is not allowed: {self.name} has {self.classes} "
                    f"classes and {len(self.train_labels)} training images"
                )
            first = first.sort().values
            images, labels = self.train_images[first], self.train_labels[first]
            dataset = replace(dataset, train_images=images, train_labels=labels)
        if size is not None:
            images, test_images = (
                _shrink(part, size) for part in (dataset.train_images, dataset.test_images)
            )
            dataset = replace(dataset, train_images=images, test_images=test_images)
        return dataset

    def dummy_input(self, batch: int) -> Tensor:
        """Return images [batch, channels, height, width]."""
        return torch.empty(batch, *self.train_images.shape[1:])

    def augmented(self, crop: int, flip: bool) -> Dataset:
        """Return the same dataset, its training images cropped and flipped at random.

        Raises:
            ThreeRegimeError: a crop in which nothing of the image may be left.
        """
        height, width = self.train_images.shape[2:]
        allowed = f"less than a side of the {height} x {width} images"
        require(crop == 0 or crop < min(height, width), "data.crop", crop, allowed)
        return replace(self, crop=crop, flip=flip)

    def loader(self, seeds: Sequence[int], batch_size: int) -> ImageBatches:
        """Return batches of training images, augmented by ``crop`` and ``flip``."""
        return ImageBatches(self, seeds, batch_size, self.crop, self.flip)

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the mean over a member's images, summed over members."""
        total = F.cross_entropy(
            outputs.flatten(0, 1), targets.flatten(), reduction="sum", label_smoothing=smoothing
        )
        return total / targets.shape[1]

    def loss_gradient(self, outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        """Return the gradient of :meth:`loss` for the outputs, softmax minus targets."""
        # Along the last dimension: then no number depends on how many members there are.
        gradient = outputs.contiguous().softmax(dim=-1)
        if smoothing:
            gradient -= smoothing / self.classes
        labels = targets[..., None]
        gradient.scatter_add_(2, labels, gradient.new_full((), smoothing - 1).expand(labels.shape))
        return gradient.div_(targets.shape[1])

    def normalise(self, pixels: Tensor, dtype: torch.dtype) -> Tensor:
        """Turn uint8 pixels with channels last [..., channels] into normalised floats."""
        mean, std = (_constant(v, dtype, pixels.device) for v in (self.mean, self.std))
        return pixels.to(dtype).div_(255).sub_(mean).div_(std)


class ImageBatches(Batches):
    """Batches of images, each cropped at random after zero padding, and flipped."""

    def __init__(
        self, dataset: Dataset, seeds: Sequence[int], batch_size: int, crop: int, flip: bool
    ) -> None:
        super().__init__(dataset, seeds, batch_size)
        self.dataset, self.crop, self.flip = dataset, crop, flip
        # Zero padding before normalisation, as cropping a padded picture does.
        padded = F.pad(dataset.train_images, (crop, crop, crop, crop)).permute(0, 2, 3, 1)
        self.padded_sides = padded.shape[1:3]
        flat = padded.contiguous().flatten()
        height, width = dataset.train_images.shape[2:]
        # Every row of a crop, by the place where it begins: a view that overlaps itself.
        row = width * dataset.channels
        self.rows = flat.as_strided((len(flat) - row + 1, row), (1, 1))
        padded_row = padded.shape[2] * dataset.channels
        self.row_starts = padded_row * torch.arange(height, device=self.device)

    def draw_member(self, generator: torch.Generator) -> Draws:
        """Draw one member's epoch: order [count], crop offsets [count, 2], flips [count]."""
        count = self.dataset.count
        order = torch.randperm(count, generator=generator)
        offset = torch.randint(2 * self.crop + 1, (count, 2), generator=generator)
        mirrored = torch.rand(count, generator=generator) < (0.5 if self.flip else 0.0)
        return order, offset, mirrored

    def batch(self, draws: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return images [batch, M, channels, h, w] and labels [M, batch]."""
        order, offset, mirrored = draws
        channels, (padded_height, padded_width) = self.dataset.channels, self.padded_sides
        first = (order * padded_height + offset[..., 0]) * padded_width + offset[..., 1]
        rows = first[..., None] * channels + self.row_starts
        pixels = self.rows.index_select(0, rows.flatten())
        # [batch, M, height, width, channels]
        pixels = pixels.view(*rows.shape, -1, channels)
        if self.flip:
            pixels = torch.where(mirrored[..., None, None, None], pixels.flip(3), pixels)
        images = self.dataset.normalise(pixels, dtype).permute(0, 1, 4, 2, 3)
        return images, self.dataset.train_labels[order].transpose(0, 1)


def plain_images(dataset: Dataset, images: Tensor, dtype: torch.dtype) -> Tensor:
    """Normalise uint8 images [count, channels, h, w] without augmentation; same shape."""
    return dataset.normalise(images.permute(0, 2, 3, 1), dtype).permute(0, 3, 1, 2)


@functools.cache
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Cached: a copy to a GPU waits for its queue, and cannot be part of a CUDA graph.
    return torch.tensor(values, dtype=dtype, device=device)


def _shrink(images: Tensor, size: int) -> Tensor:
    """Average square blocks of images down to ``size`` pixels in height and width."""
    height, width = images.shape[2:]
    if height != width or height % size:
        raise ThreeRegimeError(
            f"data.size = {size} is not allowed: it has to divide the {height} x {width} images"
        )
    parts = [F.avg_pool2d(part.float(), height // size) for part in images.split(4096)]
    return torch.cat(parts).round().to(torch.uint8)
