"""Data sets of images as uint8 tensors that live on the device.

To add a data set: write a loader that returns a :class:`Dataset` and give it an entry in
:data:`DATASETS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime import digits, task
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from threeregime.loader import Loader
    from threeregime.protocol import Data

DATA_DIR = Path("data")


@dataclass(frozen=True)
class Dataset(task.Task):
    """Images and labels of both splits.

    ``train_images`` and ``test_images`` are uint8 [count, channels, height, width]; labels are
    int64 [count]; ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1].
    """

    of: ClassVar[str] = "images"
    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int

    @property
    def channels(self) -> int:
        """Number of colour channels."""
        return self.train_images.shape[1]

    @property
    def count(self) -> int:
        """Number of training images."""
        return len(self.train_labels)

    @property
    def sides(self) -> tuple[int, int]:
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

    def blank(self, batch: int) -> Tensor:
        """Images [batch, channels, height, width]."""
        return torch.empty(batch, *self.train_images.shape[1:])

    def loader(self, seeds: Sequence[int], batch_size: int, wanted: Data) -> Loader:
        """Images cropped and flipped at random."""
        from threeregime.loader import Loader

        return Loader(self, seeds, batch_size, wanted.crop, wanted.flip)

    def examples(
        self, train: bool, dtype: torch.dtype, first: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images as they are, normalised [batch, channels, height, width], with labels [batch]."""
        images = (self.train_images if train else self.test_images)[:first]
        labels = (self.train_labels if train else self.test_labels)[:first]
        size = task.EVALUATION_BATCH
        for pixels, truth in zip(images.split(size), labels.split(size), strict=True):
            yield self.normalise(pixels.permute(0, 2, 3, 1), dtype).permute(0, 3, 1, 2), truth

    def inputs(self, most: int, dtype: torch.dtype) -> Iterator[Tensor]:
        """Images as they are, normalised [most or fewer, channels, height, width]."""
        for pixels in self.train_images.tensor_split(-(-self.count // most)):
            yield self.normalise(pixels.permute(0, 2, 3, 1), dtype).permute(0, 3, 1, 2)

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


Loads = Callable[[Path, bool], Dataset]
"""Loads a data set, given the folder of downloaded ones and whether to fetch what is missing."""


@dataclass(frozen=True)
class Source:
    """How a data set is loaded, and what is known of it before it is there.

    Attributes:
        load: loads it.
        count: number of training images.
        shape: channels, height and width of an image.
        classes: number of classes.
    """

    load: Loads
    count: int
    shape: tuple[int, int, int]
    classes: int

    def outline(self, wanted: Data, device: str = "meta") -> Dataset:
        """A data set of the right sizes with nothing in it, on a device that may be none (meta)."""
        channels, *sides = self.shape
        size = sides if wanted.size is None else [wanted.size] * 2
        count = self.count if wanted.images is None else wanted.images
        images = torch.zeros(count, channels, *size, dtype=torch.uint8, device=device)
        labels = torch.zeros(count, dtype=torch.int64, device=device)
        plain = ((0.0,) * channels, (1.0,) * channels)
        return Dataset(wanted.name, images, labels, images, labels, *plain, self.classes)


def load(name: str, root: Path = DATA_DIR, download: bool = False) -> Dataset:
    """Load a data set by its protocol name.

    Args:
        name: an entry of :data:`DATASETS` or ``folder:PATH``.
        root: where downloaded data sets lie.
        download: fetch what is missing (torchvision's sets only).

    Raises:
        ThreeRegimeError: unknown name, or files missing; says which and how to get them.
    """
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")))
    if name not in DATASETS:
        raise ThreeRegimeError(
            f"data.name = {name!r} is not allowed: one of {', '.join(DATASETS)} or folder:PATH"
        )
    return DATASETS[name].load(root, download)


def _of_digits(name: str, make: Callable[[], digits.Splits], classes: int) -> Loads:
    """A data set of :mod:`threeregime.digits`: there wherever scikit-learn is."""
    return lambda root, download: _measured(name, *make(), classes=classes)


def _cifar10_jpeg(root: Path, download: bool) -> Dataset:
    """A copy of CIFAR-10 as JPEG files, for where the original cannot be had; marked as such."""
    path = root / "cifar10-jpg"
    if not path.is_dir():
        raise ThreeRegimeError(
            f"{path} is missing: unpack a JPEG copy of CIFAR-10 there, as train/CLASS/IMAGE and "
            "test/CLASS/IMAGE, or use the original with data.name=cifar10"
        )
    made = _folder(path)
    return replace(made, name="cifar10-jpeg", mean=CIFAR10_MEAN, std=CIFAR10_STD)


# Constants of the authors' scripts.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _torchvision(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...], classes: int, first_file: str
) -> Loads:
    def loader(root: Path, download: bool) -> Dataset:
        import torchvision

        def split(train: bool) -> tuple[Tensor, Tensor]:
            which = {"split": "train" if train else "test"} if kind == "SVHN" else {"train": train}
            made = getattr(torchvision.datasets, kind)(str(root), download=download, **which)
            labels = made.labels if kind == "SVHN" else made.targets
            # SVHN comes with channels first, the CIFARs with channels last.
            images = made.data if kind == "SVHN" else made.data.transpose(0, 3, 1, 2)
            return torch.from_numpy(np.ascontiguousarray(images)), torch.as_tensor(labels).long()

        try:
            train_set, test_set = split(True), split(False)
        except (RuntimeError, OSError) as error:
            reason = f" ({error})" if download else ""
            raise ThreeRegimeError(
                f"{kind} is not in {root}: {root / first_file} is missing; add --download, or copy "
                f"it there from a machine with a network and name the folder by --data-dir{reason}"
            ) from error
        return Dataset(kind.lower(), *train_set, *test_set, mean, std, classes)

    return loader


_CIFAR = (50_000, (3, 32, 32))

DATASETS: dict[str, Source] = {
    "digits": Source(_of_digits("digits", digits.plain, 10), 797, (1, 8, 8), 10),
    # Stand-ins for CIFAR-100 and SVHN.
    "digits-pairs": Source(_of_digits("digits-pairs", digits.pairs, 100), 1000, (1, 8, 16), 100),
    "digits-clutter": Source(
        _of_digits("digits-clutter", digits.clutter, 10), 1000, (3, 10, 10), 10
    ),
    "cifar10": Source(
        _torchvision("CIFAR10", CIFAR10_MEAN, CIFAR10_STD, 10, "cifar-10-batches-py"), *_CIFAR, 10
    ),
    "cifar10-jpeg": Source(_cifar10_jpeg, *_CIFAR, 10),
    "cifar100": Source(
        # Mean and std of its own training set.
        _torchvision(
            "CIFAR100",
            (0.5071, 0.4867, 0.4408),
            (0.2675, 0.2565, 0.2761),
            100,
            "cifar-100-python",
        ),
        *_CIFAR,
        100,
    ),
    "svhn": Source(
        _torchvision(
            "SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10, "train_32x32.mat"
        ),
        73_257,
        (3, 32, 32),
        10,
    ),
}


def _folder(path: Path) -> Dataset:
    """Any folder in torchvision's ImageFolder layout: PATH/train/CLASS/*.png, PATH/test/CLASS/*."""
    from torchvision.datasets import ImageFolder

    splits = []
    for part in ("train", "test"):
        if not (path / part).is_dir():
            raise ThreeRegimeError(
                f"{path / part} is missing: a folder data set has train/CLASS/IMAGE and "
                f"test/CLASS/IMAGE below {path}"
            )
        try:
            made = ImageFolder(str(path / part))
        except FileNotFoundError as error:
            raise ThreeRegimeError(f"{path / part} has a class without images: {error}") from error
        splits.append((made.classes, *_read(made, path / part)))
    (classes, train, train_labels), (test_classes, test, test_labels) = splits
    if classes != test_classes:
        raise ThreeRegimeError(f"{path}: train and test do not have the same class folders")
    if train.shape[1:] != test.shape[1:]:
        raise ThreeRegimeError(f"{path}: train and test images differ in size; resize them first")
    # Folders come class by class: CKA, which takes the first images, wants them mixed.
    mixed = np.random.default_rng(0).permutation(len(train))
    return _measured(
        f"folder:{path}", train[mixed], train_labels[mixed], test, test_labels, len(classes)
    )


def _read(made: Any, path: Path) -> tuple[np.ndarray, np.ndarray]:
    images: list[np.ndarray] = []
    labels: list[int] = []
    for file, label in made.samples:
        try:
            pixels = np.asarray(made.loader(file), dtype=np.uint8).transpose(2, 0, 1)
        except OSError as error:
            raise ThreeRegimeError(f"{file} cannot be read as a picture; remove it") from error
        if images and pixels.shape != images[0].shape:
            raise ThreeRegimeError(f"{path}: images differ in size; resize them to one size first")
        images.append(pixels)
        labels.append(label)
    return np.stack(images), np.array(labels)


def _measured(
    name: str,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
) -> Dataset:
    """Make a data set whose mean and std are measured on its training images."""
    scaled = train / 255
    return Dataset(
        name,
        torch.from_numpy(train),
        torch.from_numpy(train_labels).long(),
        torch.from_numpy(test),
        torch.from_numpy(test_labels).long(),
        mean=tuple(scaled.mean(axis=(0, 2, 3)).tolist()),
        std=tuple(scaled.std(axis=(0, 2, 3)).tolist()),
        classes=classes,
    )
