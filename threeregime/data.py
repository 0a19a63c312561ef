"""The data sets of images and where each comes from.

To add a data set: write a loader that returns a :class:`Dataset` and give it an entry in
:data:`DATASETS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from threeregime import digits
from threeregime.errors import ThreeRegimeError
from threeregime.images import Dataset

if TYPE_CHECKING:
    from threeregime.protocol import Data

DATA_DIR = Path("data")


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
    return lambda root, download: measured(name, *make(), classes=classes)


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
    return measured(
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


def measured(
    name: str,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
) -> Dataset:
    """Make a data set whose mean and std are measured on its training images.

    Args:
        name: its name.
        train: uint8 [count, channels, height, width].
        train_labels: int [count].
        test: likewise.
        test_labels: likewise.
        classes: number of classes.
    """
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
