"""Images of scikit-learn's digits, and larger datasets made from them without a download.

Two of them stand in for datasets of the paper: pairs of digits have a hundred classes, as CIFAR-100
has, and a digit on coloured, cluttered ground has ten, as SVHN has. They share the number of
classes and the difficulty, not the images: their errors are not comparable. Both are generated with
a fixed seed, training images from training digits alone and test images from test digits alone.

Every function returns training images and labels, then test images and labels: uint8 [count,
channels, height, width] and integers [count].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from threeregime._paths import DIGITS

Splits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Split = tuple[np.ndarray, np.ndarray]
Generate = Callable[[Split, int, np.random.Generator], Split]
"""Images and labels, from those of the digits and the number of images per class."""

SIDE = 8
"""Height and width of a digit in pixels."""


def plain() -> Splits:
    """Return the digits themselves, 8x8, in a fixed stratified split: 797 and 1,000 images."""
    # Stored, since importing scikit-learn takes longer than many a training.
    with np.load(DIGITS) as stored:
        return tuple(stored[name] for name in ("train", "train_labels", "test", "test_labels"))


def from_scikit_learn() -> Splits:
    """Return what :func:`plain` stores, from scikit-learn's digits by its stratified split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    # Pixels are 0 .. 16; times 15 they are exact in uint8 and span most of its range.
    images = (bunch.images * 15).astype(np.uint8)[:, None]
    train, test, train_labels, test_labels = train_test_split(
        images, bunch.target, train_size=797, test_size=1000, stratify=bunch.target, random_state=0
    )
    return train, train_labels, test, test_labels


def pairs() -> Splits:
    """Return pairs of digits, 8x16, read as a number from 00 to 99: the stand-in for CIFAR-100.

    Each class has 10 pairs for training and 10 for test; no two images show the same pair.
    """
    return _generate(_pairs, 10, 10)


def _pairs(digits: Split, per_class: int, rng: np.random.Generator) -> Split:
    (images, labels), classes = digits, []
    for number in range(100):
        left, right = (np.flatnonzero(labels == digit) for digit in divmod(number, 10))
        pair = rng.choice(len(left) * len(right), per_class, replace=False)
        halves = (left[pair // len(right)], right[pair % len(right)])
        classes.append(np.concatenate([images[half] for half in halves], axis=3))
    return np.concatenate(classes), np.repeat(np.arange(100), per_class)


def clutter() -> Splits:
    """Return digits on 10x10 coloured pixels among parts of others: the stand-in for SVHN.

    The class is that of the whole digit. Ink and ground have random colours, light on dark or dark
    on light. Each class has 100 images for training and 1,000 for test.
    """
    return _generate(_clutter, 100, 1000)


def _clutter(digits: Split, per_class: int, rng: np.random.Generator) -> Split:
    images, labels = digits
    # Every digit of a class is used equally often, or nearly.
    classes = (rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10))
    order = np.concatenate([np.resize(members, per_class) for members in classes])
    size = 10
    pictures = np.empty((len(order), 3, size, size), np.uint8)
    for picture, digit in zip(pictures, order, strict=True):
        top, left = rng.integers(0, size - SIDE, 2, endpoint=True)
        neighbours = rng.integers(0, len(images), 2)
        # The picture is the middle of a strip with room for three digits; the neighbours stand a
        # pixel closer, since digits have a margin.
        strip = np.zeros((size, size + 2 * SIDE))
        for index, shift in zip((digit, *neighbours), (SIDE, 1, 2 * SIDE - 1), strict=True):
            window = strip[top : top + SIDE, left + shift : left + shift + SIDE]
            np.maximum(window, images[index, 0] / 240, out=window)
        dark, light = rng.uniform(0, 100, (3, 1, 1)), rng.uniform(155, 255, (3, 1, 1))
        ground, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
        picture[:] = ground + (ink - ground) * strip[:, SIDE:-SIDE]
    return pictures, labels[order]


def _generate(generate: Generate, train: int, test: int) -> Splits:
    """Return both splits, with ``train`` and ``test`` images per class, in random order."""
    digits = plain()
    splits: list[np.ndarray] = []
    for seed, (source, per_class) in enumerate(((digits[:2], train), (digits[2:], test))):
        rng = np.random.default_rng(seed)
        pictures, classes = generate(source, per_class, rng)
        # They come class by class: CKA takes the first images, which should be of all classes.
        order = rng.permutation(len(pictures))
        splits += [pictures[order], classes[order]]
    return splits[0], splits[1], splits[2], splits[3]
