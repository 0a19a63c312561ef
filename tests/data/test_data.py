"""Data sets and augmentation: fixed splits, batches against a plain reading, what is missing."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from threeregime.data.folders import open_split
from threeregime.data.images import Dataset, ImageBatches, plain_images
from threeregime.data.registry import DATASETS, dataset_from_arrays, load_images
from threeregime.data.task import stream_seed
from threeregime.errors import ThreeRegimeError


def coloured(count: int = 40, height: int = 6, width: int = 5) -> Dataset:
    """A data set of noise with three channels and sides that differ."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        1, 256, (count, 3, height, width), generator=generator, dtype=torch.uint8
    )
    labels = torch.arange(count) % 4
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    return Dataset("noise", images, labels, images[:7], labels[:7], mean, std, classes=4)


def picture(path: Path, size: tuple[int, int] = (5, 6), mode: str = "RGB", seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)


def folder(path: Path, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for part in ("train", "test"):
        for number, name in enumerate(classes):
            for i in range(3):
                picture(path / part / name / f"{i}.png", seed=10 * number + i)
    return path


def refusal(name: str, root: Path = Path("nowhere"), download: bool = False) -> str:
    with pytest.raises(ThreeRegimeError) as caught:
        load_images(name, root, download)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_digits_are_split_stratified_into_797_and_1000() -> None:
    digits = load_images("digits")
    assert digits.train_images.shape == (797, 1, 8, 8)
    assert digits.test_images.shape == (1000, 1, 8, 8)
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert (digits.classes, digits.channels) == (10, 1)
    counts = torch.stack(
        [labels.bincount() for labels in (digits.train_labels, digits.test_labels)]
    )
    share = counts / counts.sum(dim=1, keepdim=True)
    assert (share[0] - share[1]).abs().max() < 0.002


def test_the_digits_are_scikit_learns_each_once_and_exact() -> None:
    from sklearn.datasets import load_digits

    digits, bunch = load_images("digits"), load_digits()
    ours = torch.cat([digits.train_images, digits.test_images]).flatten(1)
    assert (ours % 15 == 0).all()
    labelled = torch.cat(
        [ours // 15, torch.cat([digits.train_labels, digits.test_labels])[:, None]], dim=1
    )
    theirs = np.column_stack([bunch.data, bunch.target]).astype(int)
    assert sorted(labelled.tolist()) == sorted(theirs.tolist())


def test_the_stored_digits_are_those_of_scikit_learn() -> None:
    from threeregime.data import digits

    for stored, source in zip(digits.plain(), digits.from_scikit_learn(), strict=True):
        assert (stored == source).all()


def test_the_split_of_the_digits_never_changes() -> None:
    digits = load_images("digits")
    parts = (digits.train_images, digits.train_labels, digits.test_images, digits.test_labels)
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    assert digest[:16] == "fa96d408a3a904b2"
    scaled = digits.train_images.double() / 255
    assert digits.mean == pytest.approx([scaled.mean().item()])
    assert digits.std == pytest.approx([scaled.std(correction=0).item()])


@pytest.mark.parametrize(
    ("name", "shape", "classes", "each", "fixed"),
    [
        ("digits-pairs", (1, 8, 16), 100, (10, 10), "d26f6c02dc33e018"),
        ("digits-clutter", (3, 10, 10), 10, (100, 1000), "7e35542d7f6539db"),
    ],
)
def test_the_stand_ins_never_change(
    name: str, shape: tuple[int, ...], classes: int, each: tuple[int, int], fixed: str
) -> None:
    made = load_images(name)
    assert (made.name, made.classes) == (name, classes)
    parts = (made.train_images, made.train_labels, made.test_images, made.test_labels)
    for images, labels, count in ((*parts[:2], each[0]), (*parts[2:], each[1])):
        assert images.shape == (count * classes, *shape)
        assert images.dtype == torch.uint8
        assert labels.bincount().tolist() == [count] * classes
        # CKA takes the first images: they are mixed
        assert len(labels[:100].unique()) > classes / 3
    digest = hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()
    assert digest[:16] == fixed


def test_pairs_are_two_digits_of_the_same_split() -> None:
    pairs, single = load_images("digits-pairs"), load_images("digits")
    found = []
    for part in ("train", "test"):
        digits = getattr(single, f"{part}_images").flatten(1).tolist()
        labels = getattr(single, f"{part}_labels").tolist()
        known = {tuple(digit): label for digit, label in zip(digits, labels, strict=True)}
        images, numbers = getattr(pairs, f"{part}_images"), getattr(pairs, f"{part}_labels")
        for image, number in zip(images, numbers.tolist(), strict=True):
            tens, ones = (tuple(half.flatten().tolist()) for half in image.split(8, dim=2))
            assert 10 * known[tens] + known[ones] == number
        found += images.flatten(1).tolist()
    assert len(set(map(tuple, found))) == len(found) == 2000


@pytest.mark.parametrize("part", ["train", "test"])
def test_on_clutter_one_whole_digit_of_the_same_split_is_the_class(part: str) -> None:
    made, single = load_images("digits-clutter"), load_images("digits")
    images = getattr(made, f"{part}_images").double()
    digits, labels = getattr(single, f"{part}_images").double(), getattr(single, f"{part}_labels")

    def inner(patches: Tensor) -> Tensor:
        """Without the columns that neighbours reach, whatever ink and ground: norm 1, mean 0."""
        flat = patches[..., 1:7].flatten(-2)
        flat = flat - flat.mean(dim=-1, keepdim=True)
        return flat / flat.norm(dim=-1, keepdim=True).clamp(min=1e-9)

    whole, classes_of = inner(digits[:, 0]), getattr(made, f"{part}_labels")
    for some, classes in zip(images.split(200), classes_of.split(200), strict=True):
        # [200, 3, 3, 3, 8, 8]: every place of a whole digit, in every colour
        patches = inner(some.unfold(2, 8, 1).unfold(3, 8, 1))
        alike = torch.einsum("nctlp,dp->ndctl", patches, whole).abs()
        # in all three colours at one place, up to rounding
        nearest = alike.amin(dim=2).flatten(2).amax(dim=2)
        own = labels == classes[:, None]
        assert nearest.masked_fill(~own, 0).amax(dim=1).min() > 0.999


def test_normalisation() -> None:
    noise = coloured()
    images = plain_images(noise, noise.train_images, torch.float64)
    assert images.shape == noise.train_images.shape
    for channel in range(3):
        expected = (noise.train_images[:, channel].double() / 255 - noise.mean[channel]) / (
            noise.std[channel]
        )
        torch.testing.assert_close(images[:, channel], expected, rtol=0, atol=1e-12)
    digits = load_images("digits")
    whole = plain_images(digits, digits.train_images, torch.float32)
    assert whole.dtype == torch.float32
    assert abs(whole.mean()) < 1e-5
    assert abs(whole.std() - 1) < 1e-4


def by_hand(noise: Dataset, index: int, top: int, left: int, mirror: bool, crop: int) -> Tensor:
    """One augmented image the plain way: pad with black, cut out, mirror, normalise."""
    channels, height, width = noise.train_images.shape[1:]
    image = torch.zeros(channels, height, width, dtype=torch.float64)
    for row in range(height):
        for column in range(width):
            y, x = row + top - crop, column + left - crop
            if 0 <= y < height and 0 <= x < width:
                image[:, row, column] = noise.train_images[index, :, y, x] / 255.0
    if mirror:
        image = image.flip(-1)
    return (image - torch.tensor(noise.mean)[:, None, None].double()) / (
        torch.tensor(noise.std)[:, None, None].double()
    )


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (0, True), (1, False), (2, True)])
def test_batches_equal_augmentation_by_hand(crop: int, flip: bool) -> None:
    noise = coloured()
    loader = ImageBatches(noise, [3, 8], batch_size=16, crop=crop, flip=flip)
    assert loader.steps == 2  # 40 images: the last 8 of an epoch are dropped
    order, offset, mirrored = draws = loader.draw(epoch=1)
    for step in range(loader.steps):
        images, labels = loader.batch(loader.step_draws(draws, step), torch.float64)
        assert images.shape == (16, 2, 3, 6, 5)
        assert labels.shape == (2, 16)
        for member in range(2):
            for place in range(16):
                at = step * 16 + place
                index = int(order[member, at])
                top, left = offset[member, at].tolist()
                expected = by_hand(noise, index, top, left, bool(mirrored[member, at]), crop)
                torch.testing.assert_close(images[place, member], expected, rtol=0, atol=1e-6)
                assert labels[member, place] == noise.train_labels[index]


def test_draws_cover_what_they_should() -> None:
    loader = ImageBatches(load_images("digits"), [5, 6], batch_size=32, crop=1, flip=True)
    order, offset, mirrored = loader.draw(epoch=0)
    everyone = torch.arange(797).expand(2, -1)
    assert torch.equal(order.sort(dim=1).values, everyone)
    assert not torch.equal(order, everyone)
    for axis in range(2):
        # nine crops, each about equally often, the two sides drawn apart
        assert offset[..., axis].flatten().bincount().tolist() == pytest.approx(
            [1594 / 3] * 3, rel=0.15
        )
    assert len({tuple(pair) for pair in offset[0].tolist()}) == 9
    assert mirrored.double().mean().item() == pytest.approx(0.5, abs=0.05)
    unflipped = ImageBatches(load_images("digits"), [5], batch_size=32, crop=0, flip=False).draw(
        epoch=0
    )
    assert not unflipped[2].any()
    assert (unflipped[1] == 0).all()


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    digits = load_images("digits")
    first = ImageBatches(digits, [5], 32, crop=1, flip=True)
    again = ImageBatches(digits, [9, 5], 64, crop=1, flip=True)
    for one, other in zip(first.draw(3), again.draw(3), strict=True):
        assert torch.equal(one[0], other[1])
        assert not torch.equal(other[0], other[1])
    assert not torch.equal(first.draw(3)[0], first.draw(4)[0])


def test_streams_are_fixed_and_apart() -> None:
    # every shipped number was drawn from these
    assert stream_seed("initial", 0) == 8852969958862641627
    names = [(kind, seed) for kind in ("initial", "dense", "retrain") for seed in range(100)]
    made = {stream_seed(*name) for name in names} | {
        stream_seed("retrain", 1, 11),
        stream_seed("retrain", 11, 1),
    }
    assert len(made) == len(names) + 2
    assert all(0 <= seed < 2**63 for seed in made)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    noise = coloured(40)
    assert ImageBatches(noise, [0], batch_size=40, crop=0, flip=False).steps == 1
    with pytest.raises(ThreeRegimeError, match=r"batch_size = 41 .* noise has 40 training images"):
        ImageBatches(noise, [0], batch_size=41, crop=0, flip=False)


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    made = load_images(f"folder:{folder(tmp_path)}")
    assert made.train_images.shape == made.test_images.shape == (6, 3, 6, 5)
    assert made.classes == 2
    for part, images, labels in (
        ("train", made.train_images, made.train_labels),
        ("test", made.test_images, made.test_labels),
    ):
        found = [(int(label), image.tolist()) for image, label in zip(images, labels, strict=True)]
        expected = []
        for path in sorted((tmp_path / part).rglob("*.png")):
            with Image.open(path) as image:
                pixels = np.asarray(image).transpose(2, 0, 1).tolist()
            expected.append((["cat", "dog"].index(path.parent.name), pixels))
        assert sorted(found) == sorted(expected)
    # CKA takes the first images: a folder's come class by class, and are mixed, always alike
    assert made.train_labels.tolist() != sorted(made.train_labels.tolist())
    assert torch.equal(made.train_images, load_images(f"folder:{tmp_path}").train_images)
    scaled = made.train_images.double() / 255
    assert made.mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist())
    assert made.std == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist())


def test_grey_and_palette_pictures_are_read_as_colour(tmp_path: Path) -> None:
    folder(tmp_path)
    picture(tmp_path / "train" / "cat" / "grey.png", mode="L")
    picture(tmp_path / "train" / "cat" / "palette.png", mode="P")
    assert load_images(f"folder:{tmp_path}").train_images.shape == (8, 3, 6, 5)


def test_a_folder_that_is_not_there_or_has_no_split(tmp_path: Path) -> None:
    assert f"{tmp_path / 'no' / 'train'} is missing" in refusal(f"folder:{tmp_path / 'no'}")
    picture(tmp_path / "train" / "cat" / "0.png")
    assert f"{tmp_path / 'test'} is missing" in refusal(f"folder:{tmp_path}")


def test_folders_that_do_not_fit_together(tmp_path: Path) -> None:
    at = folder(tmp_path / "sizes")
    picture(at / "train" / "dog" / "9.png", size=(6, 6))
    assert "images differ in size (0.png is" in refusal(f"folder:{at}")

    at = folder(tmp_path / "splits")
    for path in (at / "test").rglob("*.png"):
        picture(path, size=(8, 8))
    assert "train and test images differ in size" in refusal(f"folder:{at}")

    at = folder(tmp_path / "classes")
    picture(at / "test" / "bird" / "0.png")
    assert "the same class folders" in refusal(f"folder:{at}")

    at = folder(tmp_path / "empty")
    (at / "train" / "bird").mkdir()
    message = refusal(f"folder:{at}")
    assert str(at / "train") in message
    assert "bird" in message

    at = folder(tmp_path / "broken")
    (at / "train" / "cat" / "0.png").write_text("no picture")
    assert f"{at / 'train' / 'cat' / '0.png'} cannot be read" in refusal(f"folder:{at}")


@pytest.mark.parametrize(
    ("name", "kind", "file"),
    [
        ("cifar10", "CIFAR10", "cifar-10-batches-py"),
        ("cifar100", "CIFAR100", "cifar-100-python"),
        ("svhn", "SVHN", "train_32x32.mat"),
    ],
)
def test_a_missing_data_set_is_one_line_that_says_what_to_do(
    name: str, kind: str, file: str, tmp_path: Path
) -> None:
    message = refusal(name, tmp_path)
    assert f"{kind} is not in {tmp_path}: {tmp_path / file} is missing" in message
    assert "--download" in message
    assert "--data-dir" in message
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_data_set_is_refused() -> None:
    assert f"one of {', '.join(DATASETS)} or folder:PATH" in refusal("mnist")


def test_a_jpeg_copy_of_cifar_is_read_where_it_was_unpacked(tmp_path: Path) -> None:
    assert f"{tmp_path / 'cifar10-jpg'} is missing" in refusal("cifar10-jpeg", tmp_path)
    folder(tmp_path / "cifar10-jpg")
    made = load_images("cifar10-jpeg", tmp_path)
    assert made.name == "cifar10-jpeg"
    assert made.mean == (0.4914, 0.4822, 0.4465)  # the original's, as in the paper's scripts
    assert made.std == (0.2023, 0.1994, 0.2010)


def test_fewer_images_are_the_first_of_each_class() -> None:
    digits = load_images("digits")
    few = digits.reduced(160, None)
    assert few.train_labels.bincount().tolist() == [16] * 10
    kept = [
        i
        for i, label in enumerate(digits.train_labels.tolist())
        if digits.train_labels[:i].tolist().count(label) < 16
    ]
    assert torch.equal(few.train_images, digits.train_images[kept])
    assert torch.equal(few.train_labels, digits.train_labels[kept])
    # what it is tested on, and how it is normalised, stay
    assert torch.equal(few.test_images, digits.test_images)
    assert (few.mean, few.std) == (digits.mean, digits.std)


def test_smaller_images_are_averages_of_blocks() -> None:
    noise = coloured(height=6, width=6)
    small = noise.reduced(None, 3)
    assert small.train_images.shape == (40, 3, 3, 3)
    assert small.test_images.shape == (7, 3, 3, 3)
    assert small.train_images.dtype == torch.uint8
    for row in range(3):
        for column in range(3):
            block = noise.train_images[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            mean = block.double().mean(dim=(2, 3))
            assert (small.train_images[:, :, row, column] - mean).abs().max() <= 0.5
    assert torch.equal(small.train_labels, noise.train_labels)
    assert noise.reduced(None, None) == noise


@pytest.mark.parametrize(
    ("images", "size", "words"),
    [
        (161, None, "data.images = 161 is not allowed: digits has 10 classes and 797"),
        (1000, None, "data.images = 1000 is not allowed"),
        (5, None, "data.images = 5 is not allowed"),
        (None, 3, "data.size = 3 is not allowed: it has to divide the 8 x 8 images"),
        (None, 16, "data.size = 16 is not allowed"),
    ],
)
def test_reductions_that_do_not_work_out_are_refused(
    images: int | None, size: int | None, words: str
) -> None:
    with pytest.raises(ThreeRegimeError, match=words):
        load_images("digits").reduced(images, size)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.mark.parametrize(("name", "key"), [("cifar10", "labels"), ("cifar100", "fine_labels")])
def test_cifar_is_read_as_it_lies_on_disk(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small copy of the published layout, with checksums of its own."""
    from torchvision import datasets

    kind: type[datasets.CIFAR10] = getattr(datasets, name.upper())
    at = tmp_path / kind.base_folder
    at.mkdir()
    rows = np.random.default_rng(0).integers(0, 256, (2, 5, 3 * 32 * 32), dtype=np.uint8)
    truth = {"train": [3, 1, 4, 1, 5], "test": [9] * 5}
    for (part, labels), pixels in zip(truth.items(), rows, strict=True):
        (at / part).write_bytes(pickle.dumps({"data": pixels, key: labels}))
        monkeypatch.setattr(kind, f"{part}_list", [[part, md5(at / part)]])
    (at / "meta").write_bytes(pickle.dumps({kind.meta["key"]: list("abcdefghij")}))
    monkeypatch.setattr(
        kind, "meta", {"filename": "meta", "key": kind.meta["key"], "md5": md5(at / "meta")}
    )
    made = load_images(name, tmp_path)
    assert made.train_images.shape == made.test_images.shape == (5, 3, 32, 32)
    # a row holds all of red, then green, then blue, each row by row
    assert torch.equal(made.train_images.flatten(1), torch.from_numpy(rows[0]))
    assert torch.equal(made.test_images.flatten(1), torch.from_numpy(rows[1]))
    assert made.train_labels.tolist() == truth["train"]
    assert made.test_labels.tolist() == truth["test"]
    assert made.train_labels.dtype == torch.int64
    assert made.classes == int(name.removeprefix("cifar"))
    (at / "test").unlink()
    assert "is missing" in refusal(name, tmp_path)


def test_svhn_is_read_as_it_lies_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat  # type: ignore[import-untyped]
    from torchvision.datasets import SVHN

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    parts = {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": pixels, "y": np.array([[1], [10], [2], [10]])})
        parts[part] = ["", file.name, md5(file)]
    monkeypatch.setattr(SVHN, "split_list", parts)
    made = load_images("svhn", tmp_path)
    assert made.train_images.shape == (4, 3, 32, 32)
    assert made.train_images[2, 1, 5, 6] == pixels[5, 6, 1, 2]
    assert made.train_labels.tolist() == [1, 0, 2, 0]  # the published files call a zero 10
    assert made.classes == 10


def test_a_channel_that_is_the_same_everywhere_is_zero_in_the_inputs() -> None:
    """Divided by its std of 0 it would be no number, and no net could learn."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 3, 4, 4), dtype=np.uint8)
    images[:, 1] = 77
    labels = np.arange(12) % 4
    made = dataset_from_arrays("grey", images, labels, images, labels, classes=4)
    assert made.std[1] == 1
    inputs = plain_images(made, made.train_images, torch.float32)
    assert inputs.isfinite().all()
    assert inputs[:, 1].abs().max() < 1e-6
    assert inputs[:, 0].std() > 0.9


def test_images_that_are_all_the_same_are_refused() -> None:
    images, labels = np.full((8, 1, 4, 4), 9, dtype=np.uint8), np.arange(8) % 2
    images[:, 0, 1, 1] = 200
    with pytest.raises(ThreeRegimeError, match="blank: all training images are the same"):
        dataset_from_arrays("blank", images, labels, images, labels, classes=2)


def test_a_crop_in_which_nothing_may_be_left_is_refused() -> None:
    digits = load_images("digits")
    assert digits.augmented(7, False).crop == 7
    with pytest.raises(ThreeRegimeError, match=r"data.crop = 8 is not allowed: less than a side"):
        digits.augmented(8, False)


def test_a_pipe_among_the_pictures_is_not_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2)).save(tmp_path / name / "1.png")
    os.mkfifo(tmp_path / "a" / "2.png")
    assert len(open_split(tmp_path).files) == 2
