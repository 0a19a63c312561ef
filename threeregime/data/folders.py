"""Folders of images with one folder per class, the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class FolderSplit:
    """The images of one split.

    Attributes:
        path: folder of the split, with ``CLASS/IMAGE`` in it.
        classes: names of the classes, sorted; a label is an index into them.
        files: path of each image, sorted by class and name.
        labels: class of each image.
    """

    path: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: NDArray[np.int64]

    def read(self, indices: Sequence[int] | None = None, grey: bool = False) -> NDArray[np.uint8]:
        """Read images as uint8 [count, channels, height, width].

        Args:
            indices: which images, in this order; None: all.
            grey: whether to read one channel, else red, green and blue.

        Raises:
            ThreeRegimeError: a file is not an image, or the images differ in size.
        """
        from PIL import Image

        files = self.files if indices is None else [self.files[index] for index in indices]
        images: list[NDArray[np.uint8]] = []
        for file in files:
            try:
                with Image.open(file) as image:
                    pixels = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
            except OSError as error:
                raise ThreeRegimeError(f"{file} cannot be read as a picture; remove it") from error
            pixels = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
            if images and pixels.shape != images[0].shape:
                raise ThreeRegimeError(
                    f"{self.path}: images differ in size; resize them to one size first"
                )
            images.append(pixels)
        return np.stack(images)


def open_split(path: Path) -> FolderSplit:
    """List the images of one split, without reading them.

    Raises:
        ThreeRegimeError: the folder is missing, or has no class, or a class has no images.
    """
    from torchvision.datasets import ImageFolder

    if not path.is_dir():
        raise ThreeRegimeError(
            f"{path} is missing: a folder of images has train/CLASS/IMAGE and test/CLASS/IMAGE "
            f"below {path.parent}"
        )
    try:
        folder = ImageFolder(str(path))
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise ThreeRegimeError(f"{path} has a class without images: {reason}") from error
    files = tuple(file for file, _ in folder.samples)
    return FolderSplit(path, tuple(folder.classes), files, np.array(folder.targets, dtype=np.int64))


def check_same_classes(path: Path, train: FolderSplit, test: FolderSplit) -> None:
    """Refuse two splits whose class folders differ in name."""
    if train.classes != test.classes:
        raise ThreeRegimeError(f"{path}: train and test do not have the same class folders")
