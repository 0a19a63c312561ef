"""What tests compare sweeps by: every number of their tables, every bit of their checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threeregime.experiments.experiment import Experiment
from threeregime.results import KINDS, load_results


def tables(experiment: Experiment, root: Path) -> dict[str, list[list[str]]]:
    """Every number of every table in full, as text: equal if and only if all bits are."""
    got = load_results(experiment, root)

    def shown(value: Any) -> str:
        return repr(value.tolist() if hasattr(value, "tolist") else value)

    return {
        kind: [
            list(getattr(got, kind)),
            *(list(map(shown, row)) for row in getattr(got, kind).itertuples(index=False)),
        ]
        for kind in KINDS
    }


def checkpoints(root: Path) -> dict[str, bytes]:
    """Every dense checkpoint to the last bit."""
    return {path.name: path.read_bytes() for path in root.rglob("state/dense-*")}
