"""The datasets by name: where each comes from, and the task of a protocol.

To add a dataset of images, write a loader that returns a :class:`Dataset` and give it an entry in
:data:`DATASETS`, with its numbers of classes and test images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
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
"""Folder of downloaded datasets, in the current folder."""

ImageLoader = Callable[[Path, bool], Dataset]
"""Loads a dataset, given the folder of downloaded ones and whether to download what is missing."""


@dataclass(frozen=True)
class ImageSource:
    """Where a dataset of images comes from, and what is known of it without loading it.

    Attributes:
        load: its loader.
        classes: number of classes.
        test_images: number of test images.
    """

    load: ImageLoader
    classes: int
    test_images: int


def load_images(name: str, root: Path = DATA_DIR, download: bool = False) -> Dataset:
    """Load a dataset of images by its protocol name.

    Args:
        name: an entry of :data:`DATASETS` or ``folder:PATH``.
        root: folder of downloaded datasets.
        download: whether to download what is missing (torchvision's datasets only).

    Raises:
        ThreeRegimeError: the name is unknown, or files are missing; says how to get them.
    """
    if name.startswith("folder:"):
        return _folder(Path(name.removeprefix("folder:")))
    if name not in DATASETS:
        raise ThreeRegimeError(
            f"data.name = {name!r} is not allowed: one of {', '.join(DATASETS)} or folder:PATH"
        )
    return DATASETS[name].load(root, download)


def _digits(
    name: str, splits: Callable[[], digits.Splits], classes: int, test_images: int = 1000
) -> ImageSource:
    """Return the source of a dataset of :mod:`threeregime.data.digits`."""
    return ImageSource(
        lambda root, download: dataset_from_arrays(name, *splits(), classes=classes),
        classes,
        test_images,
    )


def _cifar10_jpeg(root: Path, download: bool) -> Dataset:
    """Load a copy of CIFAR-10 as JPEG files, for where the original is out of reach."""
    path = root / "cifar10-jpg"
    if not path.is_dir():
        raise ThreeRegimeError(
            f"{path} is missing: unpack a JPEG copy of CIFAR-10 there, as train/CLASS/IMAGE and "
            "test/CLASS/IMAGE, or use the original with data.name=cifar10"
        )
    return replace(_folder(path), name="cifar10-jpeg", mean=CIFAR10_MEAN, std=CIFAR10_STD)


# Constants of the authors' scripts.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def _torchvision(
    kind: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: int,
    first_file: str,
    test_images: int = 10_000,
) -> ImageSource:
    def loader(root: Path, download: bool) -> Dataset:
        import torchvision

        def split(train: bool) -> tuple[Tensor, Tensor]:
            svhn = kind == "SVHN"
            part = {"split": "train" if train else "test"} if svhn else {"train": train}
            source = getattr(torchvision.datasets, kind)(str(root), download=download, **part)
            labels = source.labels if svhn else source.targets
            # SVHN has channels first, the CIFARs have channels last.
            images = source.data if svhn else source.data.transpose(0, 3, 1, 2)
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

    return ImageSource(loader, classes, test_images)


DATASETS: dict[str, ImageSource] = {
    "digits": _digits("digits", digits.plain, 10),
    # A stand-in for CIFAR-100.
    "digits-pairs": _digits("digits-pairs", digits.pairs, 100),
    "digits-clutter": _digits("digits-clutter", digits.clutter, 10, 10_000),
    "cifar10": _torchvision("CIFAR10", CIFAR10_MEAN, CIFAR10_STD, 10, "cifar-10-batches-py"),
    "cifar10-jpeg": ImageSource(_cifar10_jpeg, 10, 10_000),
    # Mean and std of its training set.
    "cifar100": _torchvision(
        "CIFAR100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), 100, "cifar-100-python"
    ),
    "svhn": _torchvision(
        "SVHN", (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10, "train_32x32.mat", 26_032
    ),
}


def task_size(data: Data) -> tuple[int | None, int | None]:
    """Return the numbers of classes and of test images of a dataset, which need not be here.

    Both are None for sentences, and for a folder that is not here.
    """
    if data.name in DATASETS:
        source = DATASETS[data.name]
        return source.classes, source.test_images
    try:
        task = load_task(data)
    except ThreeRegimeError:
        return None, None
    return (task.classes, len(task.test_labels)) if isinstance(task, Dataset) else (None, None)


def chance_error(data: Data) -> float:
    """Return the error of guessing; 1 where the classes are not known, or are words."""
    classes, _ = task_size(data)
    return 1 - 1 / classes if classes else 1.0


@functools.cache
def load_task(
    data: Data, data_dir: Path = DATA_DIR, download: bool = False, device: str = "cpu"
) -> Task:
    """Load the dataset of a protocol onto a device, once per process.

    Args:
        data: the dataset and its augmentation, ``data`` of a protocol.
        data_dir: folder of downloaded datasets.
        download: whether to download what is missing.
        device: device of the examples.

    Raises:
        ThreeRegimeError: the name is unknown, files are missing, or an option does not fit.
    """
    if data.name in TRANSLATIONS:
        task: Task = TRANSLATIONS[data.name](data_dir, download)
    else:
        task = load_images(data.name, data_dir, download)
    return task.reduced(data.images, data.size).augmented(data.crop, data.flip).to(device)


def _folder(path: Path) -> Dataset:
    """Return the images below PATH/train/CLASS and PATH/test/CLASS."""
    train, test = open_split(path / "train"), open_split(path / "test")
    check_same_classes(path, train, test)
    images, test_images = train.read(), test.read()
    if images.shape[1:] != test_images.shape[1:]:
        raise ThreeRegimeError(f"{path}: train and test images differ in size; resize them first")
    # Folders come class by class: CKA takes the first images, which should be of all classes.
    order = np.random.default_rng(0).permutation(len(images))
    splits = (images[order], train.labels[order], test_images, test.labels)
    return dataset_from_arrays(f"folder:{path}", *splits, len(train.classes))


def dataset_from_arrays(
    name: str,
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    classes: int,
) -> Dataset:
    """Make a dataset whose mean and std are measured on its training images.

    Images are uint8 [count, channels, height, width], labels integers [count] below ``classes``.
    The std of a channel that is the same everywhere counts as 1, so that it is 0 in all inputs.

    Raises:
        ThreeRegimeError: all training images are the same.
    """
    if (train == train[:1]).all():
        raise ThreeRegimeError(
            f"{name}: all training images are the same, there is nothing to learn"
        )
    scaled = train / 255
    std = scaled.std(axis=(0, 2, 3))
    return Dataset(
        name,
        torch.from_numpy(train),
        torch.from_numpy(train_labels).long(),
        torch.from_numpy(test),
        torch.from_numpy(test_labels).long(),
        mean=tuple(scaled.mean(axis=(0, 2, 3)).tolist()),
        std=tuple(np.where(_is_constant(train), 1.0, std).tolist()),
        classes=classes,
    )


def _is_constant(images: np.ndarray) -> np.ndarray:
    """Return of which channels all pixels are the same, [channels]; rounding hides it in a std."""
    return images.min(axis=(0, 2, 3)) == images.max(axis=(0, 2, 3))
