"""Folders of images: of every depth, size and colour, and what is ignored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.advice.examples import ask, build_net, normed
from threeregime.advice.user_data import load_folder
from threeregime.data.folders import open_split
from threeregime.errors import ThreeRegimeError

LEVELS = np.arange(16, dtype=np.float64).reshape(4, 4)
"""A picture of grey levels from 0 to 15."""

Save = Callable[[NDArray[np.float64], Path], None]


def save_plain(levels: NDArray[np.float64], path: Path) -> None:
    Image.fromarray((levels * 17).astype(np.uint8)).save(path.with_suffix(".png"))


def make_folder(root: Path, save: Save = save_plain, test: str = "test") -> Path:
    """Four pictures of each of the classes a and b in train, two of each in the other."""
    for split, count in (("train", 4), (test, 2)):
        for label, name in enumerate("ab"):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                save(np.roll(LEVELS, number + 8 * label), folder / str(number))
    return root


def read_levels(path: Path, **options: Any) -> NDArray[np.uint8]:
    split = open_split(path / "train")
    return split.read([0], **options)[0]


def save_as(mode: str, scale: float, dtype: Any, suffix: str = ".png") -> Save:
    def save(levels: NDArray[np.float64], path: Path) -> None:
        values = (levels * scale).astype(dtype)
        Image.frombytes(mode, (4, 4), values.tobytes()).save(path.with_suffix(suffix))

    return save


def save_coloured(mode: str) -> Save:
    def save(levels: NDArray[np.float64], path: Path) -> None:
        picture = Image.fromarray((levels * 17).astype(np.uint8)).convert(mode)
        options: dict[str, Any] = {"transparency": b"\x00\x80"} if mode == "P" else {}
        picture.save(path.with_suffix(".png"), **options)

    return save


@pytest.mark.parametrize(
    "save",
    [
        save_plain,
        save_as("I;16", 65535 / 15, np.uint16),
        save_as("I", 65535 / 15, np.int32, ".tiff"),
        save_as("I", 17, np.int32, ".tiff"),
        save_as("F", 1 / 15, np.float32, ".tiff"),
        save_as("F", 17, np.float32, ".tiff"),
        save_coloured("RGB"),
        save_coloured("RGBA"),
        save_coloured("LA"),
        save_coloured("P"),
    ],
)
def test_pictures_of_every_depth_have_the_same_levels(save: Save, tmp_path: Path) -> None:
    make_folder(tmp_path, save)
    assert np.array_equal(read_levels(tmp_path, grey=True)[0], LEVELS * 17)
    assert read_levels(tmp_path).shape == (3, 4, 4)


def test_values_beyond_16_bits_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path, save_as("I", 1e6, np.int32, ".tiff"))
    with pytest.raises(ThreeRegimeError, match=r"0\.tiff has values from 0 to 1\.5e\+07: save it"):
        load_folder(tmp_path)


def test_pictures_of_several_sizes_are_named_or_scaled(tmp_path: Path) -> None:
    def save(levels: NDArray[np.float64], path: Path) -> None:
        picture = Image.fromarray((levels * 17).astype(np.uint8))
        picture.resize((4 + int(path.name) % 2, 4)).save(path.with_suffix(".png"))

    make_folder(tmp_path, save)
    with pytest.raises(ThreeRegimeError, match=r"differ in size \(.*png is .x4, .*png is .x4\)"):
        load_folder(tmp_path)
    train, test = load_folder(tmp_path, size=6)
    assert test is not None
    assert train.inputs.shape[2:] == test.inputs.shape[2:] == (6, 6)
    assert ask(build_net(normed), tmp_path, size=4).examples["test"] == 4


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_test_images_lie_in_folders_of_several_names(name: str, tmp_path: Path) -> None:
    _, test = load_folder(make_folder(tmp_path, test=name))
    assert test is not None
    assert len(test.targets) == 4


def test_test_images_in_another_folder(tmp_path: Path) -> None:
    make_folder(tmp_path / "one")
    make_folder(tmp_path / "two")
    shutil.rmtree(tmp_path / "one" / "test")
    expected = load_folder(tmp_path / "two")[1]
    assert expected is not None
    for folder in ("two", "two/test"):
        answer = load_folder(tmp_path / "one", test=tmp_path / folder)[1]
        assert answer is not None
        assert torch.equal(answer.inputs, expected.inputs)
        assert torch.equal(answer.targets, expected.targets)


def test_a_test_folder_may_lack_classes_but_not_add_any(tmp_path: Path) -> None:
    make_folder(tmp_path)
    shutil.rmtree(tmp_path / "test" / "a")
    _, test = load_folder(tmp_path)
    assert test is not None
    assert test.targets.tolist() == [1, 1]
    shutil.copytree(tmp_path / "test" / "b", tmp_path / "test" / "c")
    with pytest.raises(ThreeRegimeError, match="has a class 'c' that the training images lack"):
        load_folder(tmp_path)


def test_hidden_files_and_folders_are_ignored(tmp_path: Path) -> None:
    make_folder(tmp_path)
    expected = load_folder(tmp_path)[0]
    for hidden in (tmp_path / "train" / ".ipynb_checkpoints", tmp_path / "train" / "a" / ".cache"):
        hidden.mkdir()
        save_plain(LEVELS, hidden / "0")
    (tmp_path / "train" / "a" / "._0.png").write_bytes(b"of a Mac")
    assert torch.equal(load_folder(tmp_path)[0].targets, expected.targets)


def test_broken_files_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    file = tmp_path / "train" / "b" / "2.png"
    whole = file.read_bytes()
    for content in (b"no picture", whole[: len(whole) // 2], b""):
        file.write_bytes(content)
        with pytest.raises(ThreeRegimeError, match=r"b/2\.png cannot be read as a picture"):
            load_folder(tmp_path)


def test_grey_or_colour_is_as_the_net_or_the_pictures(tmp_path: Path) -> None:
    make_folder(tmp_path / "grey")
    make_folder(tmp_path / "colour", save_coloured("RGB"))
    assert load_folder(tmp_path / "grey")[0].inputs.shape[1] == 1
    assert load_folder(tmp_path / "colour")[0].inputs.shape[1] == 3
    assert load_folder(tmp_path / "colour", grey=True)[0].inputs.shape[1] == 1
    assert ask(build_net(normed), tmp_path / "colour").examples["train"] == 8
    with pytest.raises(ThreeRegimeError, match="cannot take inputs of shape"):
        ask(build_net(normed), tmp_path / "grey", grey=False)


def test_pixels_are_normalized_as_given(tmp_path: Path) -> None:
    make_folder(tmp_path)
    own, _ = load_folder(tmp_path)
    assert own.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    given, _ = load_folder(tmp_path, mean=[0.0], std=[1.0])
    assert (given.inputs.min().item(), given.inputs.max().item()) == (0, 1)
    with pytest.raises(ThreeRegimeError, match="2 means or deviations are not allowed"):
        load_folder(tmp_path, mean=[0.5, 0.5])
