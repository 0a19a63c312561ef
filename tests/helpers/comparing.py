"""Exact comparison of sweeps: all numbers of their tables, all bits of their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threeregime.experiments.experiment import Experiment
from threeregime.results import KINDS, load_results


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
