"""Folders of images with one folder per class, the layout of torchvision's ``ImageFolder``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threeregime.errors import ThreeRegimeError

TEST_FOLDERS = ("test", "val", "valid", "validation")
"""Names of the folder of test images; the first that exists is used."""
MAX_16_BIT = 65535
GREY_MODES = ("1", "L", "LA", "I", "F")
"""Pillow's modes of images without colour, besides those of 16 bits ("I;16")."""


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

    def read(
        self, indices: Sequence[int] | None = None, grey: bool = False, size: int | None = None
    ) -> NDArray[np.uint8]:
        """Read images as uint8 [count, channels, height, width].

        Values of 16 bits and floats are scaled to 8 bits; transparency is dropped.

        Args:
            indices: which images, in this order; None: all.
            grey: whether to read one channel, else red, green and blue.
            size: height and width in pixels; images are scaled, and cropped around their centre.
                None: images are not changed.

        Raises:
            ThreeRegimeError: a file is not an image, or the images differ in size.
        """
        files = self.files if indices is None else [self.files[index] for index in indices]
        images: list[NDArray[np.uint8]] = []
        for file in files:
            pixels = _read_pixels(file, grey, size)
            if images and pixels.shape != images[0].shape:
                sizes = (f"{Path(f).name} is {_size(p)}" for f, p in _pair(files, images, pixels))
                raise ThreeRegimeError(
                    f"{self.path}: images differ in size ({', '.join(sizes)}): resize them to one "
                    "size first (advise does it with --size)"
                )
            images.append(pixels)
        return np.stack(images)

    def is_grey(self) -> bool:
        """Return whether the first image has no colour.

        Raises:
            ThreeRegimeError: the file is not an image.
        """
        from PIL import Image

        try:
            with Image.open(self.files[0]) as image:
                return image.mode in GREY_MODES or image.mode.startswith("I;16")
        except Exception as error:
            raise _unreadable(self.files[0]) from error


def _pair(
    files: Sequence[str], images: Sequence[NDArray[np.uint8]], pixels: NDArray[np.uint8]
) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return the first image and the one that differs from it, each with its file."""
    return [(files[0], images[0]), (files[len(images)], pixels)]


def _size(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[2]}x{pixels.shape[1]}"


def _unreadable(file: str) -> ThreeRegimeError:
    return ThreeRegimeError(f"{file} cannot be read as a picture; remove it")


def _read_pixels(file: str, grey: bool, size: int | None) -> NDArray[np.uint8]:
    """Return an image as uint8 [channels, height, width]."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as stored:
            image = _to_8_bits(stored, file)
            if "transparency" in image.info:  # of a palette: Pillow wants it as a channel first
                image = image.convert("RGBA")
            image = image.convert("L" if grey else "RGB")
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except ThreeRegimeError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many types
        raise _unreadable(file) from error
    return pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)


def _to_8_bits(image: Any, file: str) -> Any:
    """Return an image whose values are integers or floats of more bits scaled to 8 bits.

    Integers are scaled from 16 bits if one is above 255, and floats from [0, 1] if all lie there.
    """
    from PIL import Image

    if not (image.mode in ("I", "F") or image.mode.startswith("I;16")):
        return image
    values = np.asarray(image).astype(np.float64)
    largest = values.max(initial=0)
    if image.mode.startswith("I;16"):
        scale = 255 / MAX_16_BIT
    elif image.mode == "F":
        scale = 255.0 if largest <= 1 else 1.0
    else:
        scale = 255 / MAX_16_BIT if largest > 255 else 1.0
    if not (values.min(initial=0) >= 0 and largest * scale <= 255):
        raise ThreeRegimeError(
            f"{file} has values from {values.min():g} to {largest:g}: save it with 8 or 16 bits, "
            "or as floats from 0 to 1"
        )
    return Image.fromarray((values * scale).round().astype(np.uint8))


def open_split(path: Path, classes: Sequence[str] | None = None) -> FolderSplit:
    """List the images of one split, without reading them; hidden files and folders are ignored.

    Args:
        path: folder of the split.
        classes: names that labels are indices into; None: those of the split's folders.

    Raises:
        ThreeRegimeError: the folder is missing, or has no class, or a class has no images, or is
            not one of ``classes``.
    """
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if not path.is_dir():
        raise ThreeRegimeError(
            f"{path} is missing: a folder of images has train/CLASS/IMAGE and test/CLASS/IMAGE "
            f"below {path.parent}"
        )

    class VisibleImages(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            """Return the visible folders, sorted, and the label of each."""
            names = sorted(
                entry.name
                for entry in os.scandir(directory)
                if entry.is_dir() and not entry.name.startswith(".")
            )
            if not names:
                raise FileNotFoundError(f"no class folders in {directory}")
            return names, {name: label for label, name in enumerate(names)}

    def is_visible(file: str) -> bool:
        parts = Path(file).relative_to(path).parts
        hidden = any(part.startswith(".") for part in parts)
        # A named pipe, or a device without an end, would be read for ever.
        return file.lower().endswith(IMG_EXTENSIONS) and not hidden and os.path.isfile(file)

    try:
        folder = VisibleImages(str(path), is_valid_file=is_visible)
    except FileNotFoundError as error:
        reason = str(error).splitlines()[0]
        raise ThreeRegimeError(f"{path} has a class without images: {reason}") from error
    names = tuple(folder.classes)
    unknown = [name for name in names if classes is not None and name not in classes]
    if unknown:
        raise ThreeRegimeError(
            f"{path} has a class {unknown[0]!r} that the training images lack: they have "
            f"{len(classes or ())} classes"
        )
    labels = np.array(folder.targets, dtype=np.int64)
    if classes is not None:
        labels = np.array([list(classes).index(name) for name in names], dtype=np.int64)[labels]
        names = tuple(classes)
    return FolderSplit(path, names, tuple(file for file, _ in folder.samples), labels)


def find_test_folder(path: Path) -> Path | None:
    """Return the folder of the test images below a folder of images, by its usual names."""
    return next((path / name for name in TEST_FOLDERS if (path / name).is_dir()), None)


def check_same_classes(path: Path, train: FolderSplit, test: FolderSplit) -> None:
    """Refuse two splits whose class folders differ in name."""
    if train.classes != test.classes:
        raise ThreeRegimeError(f"{path}: train and test do not have the same class folders")
