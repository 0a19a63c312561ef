"""What is shipped of every experiment: how much, when, on what, how long, and if it is stale."""

from __future__ import annotations

import ast
import functools
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from threeregime.experiments import list_experiments, list_scales, load_experiment
from threeregime.results import tables as results
from threeregime._paths import PACKAGE
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment
from threeregime.results.tables import Results


def table(root: Path = results.ROOT) -> pd.DataFrame:
    """One row an experiment and scale of which there are tables.

    Args:
        root: where they lie.

    Returns:
        ``experiment``, ``scale``, ``cells`` (there are, of the grid), ``nets`` (retrained),
        ``seeds``, ``computed`` (the last day), ``device``, ``hours`` (of one core or GPU),
        ``commits`` and ``stale``: what has changed since, the protocol or how many of the files
        that make numbers; "no", or "unknown" where there is no history to ask.
    """
    return pd.DataFrame(_row(*found) for found in shipped(root))


def shipped(root: Path = results.ROOT) -> Iterator[tuple[Experiment, Results]]:
    """Every experiment and scale of which there are tables, with these."""
    for name in list_experiments():
        for scale in list_scales(name):
            for experiment in load_experiment(name, scale).data_variants():
                try:
                    yield experiment, results.load(experiment, root)
                except ThreeRegimeError:
                    continue


def _row(experiment: Experiment, tables: Results) -> dict[str, object]:
    fleets = tables.origins
    there, whole = len(tables.nets.drop_duplicates("cell")), len(experiment.cells())
    nets = len(experiment.units()) * len(experiment.retrain_seeds)
    return {
        "experiment": experiment.name,
        "scale": experiment.scale,
        "data": experiment.protocol.data.name,
        "cells": f"{there} of {whole}",
        "nets": len(tables.nets),
        "seeds": f"{len(experiment.dense_seeds)} x {len(experiment.retrain_seeds)}",
        "computed": str(fleets["created"].max())[:10],
        "device": "; ".join(sorted(set(fleets["device"]))),
        "hours": round(float(fleets["seconds"].sum()) / 3600, 2),
        "commits": ", ".join(sorted(set(fleets["commit"]))),
        "stale": _stale(fleets["commit"], missing=nets - len(tables.nets)),
    }


def _stale(commits: Iterable[str], missing: int) -> str:
    if missing:
        return f"{missing} nets missing"
    changed = [changed_since(commit) for commit in set(commits)]
    if any(files is None for files in changed):
        return "unknown"
    most = max((len(files) for files in changed if files is not None), default=0)
    return f"{most} of {len(making())} files changed since" if most else "no"


@functools.cache
def changed_since(commit: str) -> tuple[str, ...] | None:
    """Files that make numbers and have changed since a commit; None where that is not known."""
    words = ["git", "diff", "--name-only", "--relative", commit.rstrip("+"), "--", *making()]
    try:
        done = subprocess.run(words, cwd=PACKAGE, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(done.stdout.split())


@functools.cache
def making() -> tuple[str, ...]:
    """The modules that numbers pass through: `threeregime.sweep.jobs` and all it imports of
    ours."""
    found: set[str] = set()
    left = ["jobs"]
    while left:
        name = left.pop()
        path = PACKAGE / f"{name}.py"
        if name in found or not path.exists():
            continue
        found.add(name)
        left += _imports(path)
    return tuple(sorted(f"{name}.py" for name in found))


def _imports(path: Path) -> list[str]:
    """Modules of this package that a module imports."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "threeregime":
                names += [alias.name for alias in node.names]
            elif node.module.startswith("threeregime."):
                names.append(node.module.split(".")[1])
    return names
