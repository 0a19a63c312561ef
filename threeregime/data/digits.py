"""Pictures of scikit-learn's digits, and larger sets made of them: nothing has to be downloaded.

The paper's other data sets have stand-ins here: two digits side by side are a hundred classes as in
CIFAR-100, a digit on coloured, cluttered ground is ten classes as in SVHN. They share the number of
classes and what is hard about them, not their pictures: their errors are not comparable. Both are
made anew each time under a fixed seed, training pictures of the training digits alone and test
pictures of the test digits alone.

Every function returns training images and labels, then test images and labels: uint8 [count,
channels, height, width] and whole numbers [count].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Split = tuple[np.ndarray, np.ndarray]
Splits = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

SIDE = 8
"""Pixels a side of one digit."""


def plain() -> Splits:
    """The digits themselves, 8x8: a fixed stratified split, 797 to train on, 1,000 to test."""
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
    """Stand-in for CIFAR-100: two digits side by side, 8x16, read as a number from 00 to 99.

    10 pairs a class to train on and 10 to test; no two pictures are the same pair.
    """
    return _made(_pairs, 10, 10)


def _pairs(images: np.ndarray, labels: np.ndarray, each: int, rng: np.random.Generator) -> Split:
    made = []
    for number in range(100):
        left, right = (np.flatnonzero(labels == digit) for digit in divmod(number, 10))
        pair = rng.choice(len(left) * len(right), each, replace=False)
        sides = (left[pair // len(right)], right[pair % len(right)])
        made.append(np.concatenate([images[side] for side in sides], axis=3))
    return np.concatenate(made), np.repeat(np.arange(100), each)


def clutter() -> Splits:
    """Stand-in for SVHN: a digit somewhere on 10x10 coloured pixels, beside it parts of others.

    The class is the digit that is whole. Ink and ground have random colours, light on dark or dark
    on light. 100 pictures a class to train on and 100 to test.
    """
    return _made(_clutter, 100, 100)


def _clutter(images: np.ndarray, labels: np.ndarray, each: int, rng: np.random.Generator) -> Split:
    # Every digit of a class equally often, or nearly.
    of_class = (rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10))
    chosen = np.concatenate([np.resize(own, each) for own in of_class])
    size = 10
    made = np.empty((len(chosen), 3, size, size), np.uint8)
    for picture, index in zip(made, chosen, strict=True):
        top, left = rng.integers(0, size - SIDE, 2, endpoint=True)
        neighbours = rng.integers(0, len(images), 2)
        # Of a strip with room for three digits the middle is seen; neighbours stand a pixel closer,
        # since digits have a margin.
        strip = np.zeros((size, size + 2 * SIDE))
        for which, shift in zip((index, *neighbours), (SIDE, 1, 2 * SIDE - 1), strict=True):
            part = strip[top : top + SIDE, left + shift : left + shift + SIDE]
            np.maximum(part, images[which, 0] / 240, out=part)
        dark, light = rng.uniform(0, 100, (3, 1, 1)), rng.uniform(155, 255, (3, 1, 1))
        ground, ink = (dark, light) if rng.random() < 0.5 else (light, dark)
        picture[:] = ground + (ink - ground) * strip[:, SIDE:-SIDE]
    return made, labels[chosen]


def _made(
    make: Callable[[np.ndarray, np.ndarray, int, np.random.Generator], Split], train: int, test: int
) -> Splits:
    """Both splits of a made set, so many pictures a class, in random order."""
    images, labels, test_images, test_labels = plain()
    made: list[np.ndarray] = []
    for number, part in enumerate(((images, labels, train), (test_images, test_labels, test))):
        rng = np.random.default_rng(number)
        pictures, classes = make(*part, rng)
        # They come class by class: CKA, which takes the first images, wants them mixed.
        mixed = rng.permutation(len(pictures))
        made += [pictures[mixed], classes[mixed]]
    return made[0], made[1], made[2], made[3]
