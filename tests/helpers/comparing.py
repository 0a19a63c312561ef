"""Exact comparison: all numbers of tables, all bits of checkpoints and of training states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from threeregime.experiments.experiment import Experiment
from threeregime.results import KINDS, load_results
from threeregime.training import TrainingRun


def tables(experiment: Experiment, root: Path) -> dict[str, list[list[str]]]:
    """Return all tables as text, which is equal if and only if all bits of the numbers are."""
    loaded = load_results(experiment, root)

    def text(value: Any) -> str:
        return repr(value.tolist() if hasattr(value, "tolist") else value)

    return {
        kind: [
            list(getattr(loaded, kind)),
            *(list(map(text, row)) for row in getattr(loaded, kind).itertuples(index=False)),
        ]
        for kind in KINDS
    }


def checkpoints(root: Path) -> dict[str, bytes]:
    """Return the bytes of all dense checkpoints by name."""
    return {path.name: path.read_bytes() for path in root.rglob("state/dense-*")}


def assert_resumes_exactly(make_run: Callable[[], TrainingRun]) -> None:
    """Assert that two epochs equal one epoch, saved, loaded into a new run, and one more."""
    whole, first, second = (make_run() for _ in range(3))
    for _ in range(2):
        whole.run_epoch()
    first.run_epoch()
    second.load(first.state())
    second.run_epoch()
    expected, got = whole.state(), second.state()
    assert set(got) == set(expected)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
