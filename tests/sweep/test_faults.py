"""Every write and every read of a sweep goes wrong once: nothing is lost, one line says what."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.cases import with_examples
from tests.helpers.comparing import tables
from threeregime import _files
from threeregime.experiments import Experiment, load_experiment
from threeregime.sweep import resumable, run_sweep


@pytest.fixture
def tiny() -> Experiment:
    """One dense run, two copies of it, few images."""
    fields: dict[str, Any] = {
        "dense.epochs": 2,
        "dense.milestones": [1],
        "data.images": 160,
        "retraining.epochs": 2,
        "retraining.milestones": [1],
        "metrics.points": 3,
    }
    experiment = load_experiment("figure_02", "smoke").with_fields(fields)
    return experiment.with_values(epochs=[2], density=[0.2]).with_seeds(1, 2)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)


def compute(experiment: Experiment, root: Path) -> bool:
    return run_sweep(experiment, root, device="cpu", workers=1)


class Killed(BaseException):
    """Ends a sweep between two files."""


def full(path: Path, write: Callable[[Path], object]) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def refused(path: Path, write: Callable[[Path], object]) -> None:
    raise PermissionError(errno.EACCES, "Permission denied")


def failing(path: Path, write: Callable[[Path], object]) -> None:
    """Write a half, as a device that breaks."""
    write(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    path.unlink()
    raise OSError(errno.EIO, "Input/output error")


def files_of(experiment: Experiment, root: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that a sweep writes, in their order."""
    write, names = _files._write_partial, []

    def record(path: Path, write_content: Callable[[Path], object]) -> None:
        names.append(path.name)
        write(path, write_content)

    with patch.context() as context:
        context.setattr(_files, "_write_partial", record)
        assert compute(experiment, root)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("fault", with_examples([full, refused, failing], [full]))
def test_a_write_that_fails_is_one_error_with_the_path(
    fault: Callable[..., None],
    tiny: Experiment,
    every_epoch: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = files_of(tiny, tmp_path / "whole", monkeypatch)
    # 2 dense epochs and a stop, a table; 2 epochs and the end of retraining, 2 tables
    assert len(names) == 2 + 1 + 1 + 3 + 2
    write, expected = _files._write_partial, tables(tiny, tmp_path / "whole")
    for position, name in enumerate(names):
        root, count = tmp_path / str(position), iter(range(len(names)))

        def fail(path: Path, write_content: Callable[[Path], object]) -> None:
            (fault if next(count) == position else write)(path, write_content)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(_files, "_write_partial", fail)
            with pytest.raises(OSError, match=r"\[Errno \d+\]") as caught:
                compute(tiny, root)
        assert Path(caught.value.filename).name == name
        assert not list(root.rglob(".*"))
        assert not list(root.rglob("claim-*"))
        assert compute(tiny, root)
        assert tables(tiny, root) == expected


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", with_examples([cut_off, emptied, flipped, Path.unlink], [flipped])
)
def test_a_file_that_is_damaged_between_two_sweeps_costs_only_its_work(
    damage: Callable[[Path], object],
    tiny: Experiment,
    every_epoch: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of a sweep that was killed after each of its files, each file that is then there."""
    names = files_of(tiny, tmp_path / "whole", monkeypatch)
    expected = tables(tiny, tmp_path / "whole")
    replace = os.replace
    for position in range(len(names)):
        killed, count = tmp_path / f"killed-{position}", iter(range(len(names)))

        def stop(source: Path, target: Path) -> None:
            replace(source, target)
            if next(count) == position:  # noqa: B023
                raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", stop)
            with pytest.raises(Killed):
                compute(tiny, killed)
        for path in sorted(path for path in killed.rglob("*") if path.is_file()):
            root = tmp_path / f"{position}-{path.name}"
            shutil.copytree(killed, root)
            damage(root / path.relative_to(killed))
            capsys.readouterr()
            assert compute(tiny, root)
            assert tables(tiny, root) == expected
            said = [line for line in capsys.readouterr().err.splitlines() if "threeregime:" in line]
            aside = list(root.rglob("*.broken"))
            assert len(said) == len(aside) <= 1
            assert all(path.name in line for line in said)
            if aside:
                assert aside[0].name == f"{path.name}.broken"
