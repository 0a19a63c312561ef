"""The data sets of images and where each comes from.

To add a data set: write a loader that returns a :class:`Dataset` and give it an entry in
:data:`DATASETS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from threeregime.data import digits
from threeregime.data.folders import check_same_classes, open_split
from threeregime.data.images import Dataset
from threeregime.data.task import Task
from threeregime.data.translation import TRANSLATIONS
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from threeregime.protocol import Data

DATA_DIR = Path("data")


ImageLoader = Callable[[Path, bool], Dataset]
"""Loads a data set, given the folder of downloaded ones and whether to fetch what is missing."""


def load_images(name: str, root: Path = DATA_DIR, download: bool = False) -> Dataset:
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
    return DATASETS[name](root, download)


def _of_digits(name: str, make: Callable[[], digits.Splits], classes: int) -> ImageLoader:
    """A data set of :mod:`threeregime.data.digits`: there wherever scikit-learn is."""
    return lambda root, download: dataset_from_arrays(name, *make(), classes=classes)


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
) -> ImageLoader:
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


DATASETS: dict[str, ImageLoader] = {
    "digits": _of_digits("digits", digits.plain, 10),
    # Stand-ins for CIFAR-100 and SVHN.
    "digits-pairs": _of_digits("digits-pairs", digits.pairs, 100),
    "digits-clutter": _of_digits("digits-clutter", digits.clutter, 10),
    "cifar10": _torchvision("CIFAR10", CIFAR10_MEAN, CIFAR10_STD, 10, "cifar-10-batches-py"),
    "cifar10-jpeg": _cifar10_jpeg,
    # Mean and std of its own training set.
    "cifar100": _torchvision(
        "CIFAR100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 100, "cifar-100-python"
    ),
    "svhn": _torchvision(
        "SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10, "train_32x32.mat"
    ),
}


@functools.cache
def load_task(wanted: Data, data_dir: Path, download: bool, device: str) -> Task:
    """The data set of a protocol on the device, loaded once a process."""
    if wanted.name in TRANSLATIONS:
        whole: Task = TRANSLATIONS[wanted.name](data_dir, download)
    else:
        whole = load_images(wanted.name, data_dir, download)
    return whole.reduced(wanted.images, wanted.size).augmented(wanted.crop, wanted.flip).to(device)


def _folder(path: Path) -> Dataset:
    """Return the images below PATH/train/CLASS and PATH/test/CLASS."""
    train, test = open_split(path / "train"), open_split(path / "test")
    check_same_classes(path, train, test)
    images, test_images = train.read(), test.read()
    if images.shape[1:] != test_images.shape[1:]:
        raise ThreeRegimeError(f"{path}: train and test images differ in size; resize them first")
    # Folders come class by class: CKA, which takes the first images, wants them mixed.
    mixed = np.random.default_rng(0).permutation(len(images))
    return dataset_from_arrays(
        f"folder:{path}",
        images[mixed],
        train.labels[mixed],
        test_images,
        test.labels,
        len(train.classes),
    )


def dataset_from_arrays(
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
