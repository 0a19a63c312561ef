"""Damaged checkpoints: named, set aside, and their nets trained from their start."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.cases import with_examples
from tests.helpers.comparing import tables
from threeregime.experiments import Experiment, load_experiment
from threeregime.sweep import checkpoints, resumable, run_sweep
from threeregime.sweep.checkpoints import DamagedCheckpoint, read_about, read_state, write_state


class Killed(BaseException):
    """Ends a sweep after one of its files."""


@pytest.fixture
def tiny() -> Experiment:
    """One dense run, two copies of it, few images."""
    fields: dict[str, Any] = {"dense.epochs": 2, "dense.milestones": [1], "data.images": 160}
    experiment = load_experiment("figure_02", "smoke").with_fields(fields)
    return experiment.with_values(epochs=[2], density=[0.2]).with_seeds(1, 2)


def compute(experiment: Experiment, root: Path) -> bool:
    return run_sweep(experiment, root, device="cpu", workers=1)


def kill_after(name: str, experiment: Experiment, root: Path, patch: pytest.MonkeyPatch) -> Path:
    """End a sweep after it wrote the second file whose name begins so; return its path."""
    patch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    replace, written = os.replace, []

    def stop(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name.startswith(name):
            written.append(Path(target))
            if len(written) == 2 or name == "dense-":
                raise Killed

    patch.setattr(os, "replace", stop)
    with pytest.raises(Killed):
        compute(experiment, root)
    return written[-1]


def replace_tensors(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Write a checkpoint again with its metadata and other values."""
    with checkpoints.safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: change(t).contiguous() for name, t in load_file(path).items()}, path, metadata)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-100] ^= 64
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-50]),
    "cut off in the header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: path.write_bytes(b"PK" * 500),
    "flipped": flip,
    "no numbers": lambda path: replace_tensors(path, lambda t: t * torch.nan if t.dim() else t),
    "other shapes": lambda path: write_state(path, {"epoch": torch.ones(3)}),
}


@pytest.mark.parametrize("damage", with_examples([*DAMAGES], ["flipped", "no numbers"]))
@pytest.mark.parametrize("name", ["fleet-", "dense-"])
def test_a_damaged_checkpoint_is_set_aside_and_changes_nothing(
    name: str,
    damage: str,
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if (name, damage) == ("dense-", "other shapes"):
        pytest.skip("a dense checkpoint has the shapes of its net")
    compute(tiny, tmp_path / "whole")
    with monkeypatch.context() as patch:
        path = kill_after(name, tiny, tmp_path / "damaged", patch)
    DAMAGES[damage](path)
    capsys.readouterr()
    assert compute(tiny, tmp_path / "damaged")
    lines = [line for line in capsys.readouterr().err.splitlines() if "threeregime:" in line]
    (line,) = lines
    assert f"{path} is not a checkpoint (" in line
    assert path.with_name(f"{path.name}.broken").exists()
    assert tables(tiny, tmp_path / "damaged") == tables(tiny, tmp_path / "whole")


def test_a_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    state = {
        "a": torch.tensor([1.0, torch.nan, -0.0]),
        "b": torch.arange(6).view(2, 3).t(),
        "c": torch.tensor(2.5, dtype=torch.float64),
        "d": torch.zeros(0, 3),
    }
    path = tmp_path / "x.safetensors"
    write_state(path, state, {"units": [["c", 1, [0, 1]]]})
    got = read_state(path)
    assert got.keys() == state.keys()
    assert all(torch.equal(got[n].nan_to_num(7), t.nan_to_num(7)) for n, t in state.items())
    assert read_about(path)["units"] == [["c", 1, [0, 1]]]
    first = path.read_bytes()
    write_state(path, state, {"units": [["c", 1, [0, 1]]]})
    assert path.read_bytes() == first


def test_every_bit_counts(tmp_path: Path) -> None:
    """No flipped bit passes, in the header or in the values."""
    path = tmp_path / "x.safetensors"
    write_state(path, {"a": torch.arange(5.0), "b": torch.tensor(3)}, {"units": []})
    whole = path.read_bytes()
    passed = 0
    for position in range(len(whole)):
        content = bytearray(whole)
        content[position] ^= 1
        path.write_bytes(content)
        try:
            got = read_state(path)
        except DamagedCheckpoint:
            continue
        # Of the header: spaces, and the name under which the checksum is.
        passed += 1
        assert torch.equal(got["a"], torch.arange(5.0))
        assert got["b"] == 3
    assert passed < 25
