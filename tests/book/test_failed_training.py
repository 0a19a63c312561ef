"""Notebooks of tables in which training failed: they draw, and say in words that it did."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.helpers.cases import with_examples
from tests.helpers.notebook_cells import run_cells
from tests.helpers.spoiling import change_rows
from threeregime._paths import RESULTS
from threeregime.book import notebooks
from threeregime.results import KINDS, tables

pytestmark = pytest.mark.notebook

CHANCE = {
    **dict.fromkeys(("test_error", "train_error"), 0.9),
    **dict.fromkeys(("lmc", "hessian_trace", "hessian_top"), 0.0),
    **dict.fromkeys(("t_star", "cka_softmax", "cka_logits"), 1.0),
}
"""Measurements of nets that give every example the same of ten classes."""
WITHOUT_TABLES = {"advice", "controls", "landscapes", "load_and_temperature", "speed"}
FEW_SEEDS = {name: {"dense_seeds": 2} for name in ("figure_04", "figure_16")}
"""Parameters of notebooks that replay rules, which takes long."""
SLOW = {"failures"}
"""A notebook that replays the same rules on the same tables, without such a parameter."""
READ = sorted(notebooks.notebook_paths().keys() - WITHOUT_TABLES - SLOW)
EXAMPLES = {"early", "explorer", "figure_02", "figure_06", "quantization", "status"}
"""Notebooks that every run tries."""
FOLDERS = {"claims", "found", "status"}
"""Notebooks whose tables are a parameter."""


def fail(rows: pd.DataFrame, kept: pd.Series | None, value: Callable[[str], float]) -> pd.DataFrame:
    """Replace the measurements of a table, except those of a cell and dense seed."""
    rows, failed = rows.copy(), pd.Series(True, index=rows.index)
    if kept is not None and "cell" in rows:
        failed = (rows["cell"] != kept["cell"]) | (rows["dense_seed"] != kept["dense_seed"])
    for name in CHANCE.keys() & set(rows):
        rows.loc[failed, name] = value(name)
    if "curve" in rows:
        error = value("train_error")
        flat = [[error] * len(curve) for curve in rows.loc[failed, "curve"]]
        rows.loc[failed, "curve"] = pd.Series(flat, index=rows.index[failed], dtype=object)
    if "diverged" in rows:
        rows.loc[failed, "diverged"] = bool(np.isnan(value("train_error")))
    return rows


def failed_tables(root: Path, keep_one: bool, value: Callable[[str], float]) -> Path:
    """Copy the shipped tables with other measurements; return their folder."""
    shutil.copytree(RESULTS, root)
    for at in root.glob("*/*"):
        kept = pd.read_parquet(at / "nets.parquet").iloc[0] if keep_one else None
        for kind in KINDS:
            if (at / f"{kind}.parquet").exists():
                change_rows(at, kind, partial(fail, kept=kept, value=value))
    return root


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables in which every net diverged."""
    root = tmp_path_factory.mktemp("diverged") / "results"
    return failed_tables(root, False, lambda name: np.nan)


@pytest.fixture(scope="module")
def all_but_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables in which the copies of one dense net did not diverge."""
    root = tmp_path_factory.mktemp("one") / "results"
    return failed_tables(root, True, lambda name: np.nan)


@pytest.fixture(scope="module")
def at_chance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables in which no net learned enough."""
    root = tmp_path_factory.mktemp("chance") / "results"
    return failed_tables(root, False, lambda name: CHANCE[name])


def run(notebook: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a notebook on the tables of a folder."""
    monkeypatch.setattr(tables, "ROOT", root)
    given: dict[str, Any] = (
        {"folder": str(root)} if notebook in FOLDERS else FEW_SEEDS.get(notebook, {})
    )
    return run_cells(notebooks.notebook_paths()[notebook], monkeypatch, **given)


@pytest.mark.parametrize("notebook", with_examples(READ, EXAMPLES))
def test_every_net_diverged(
    notebook: str,
    diverged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(notebook, diverged, monkeypatch)
    assert notebook in FOLDERS or ": every net diverged; " in capsys.readouterr().out


@pytest.mark.parametrize(
    "notebook", with_examples(["early", "figure_02", "figure_04", "figure_06"], ["early"])
)
def test_all_but_one_diverged(
    notebook: str, all_but_one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(notebook, all_but_one, monkeypatch)


@pytest.mark.parametrize(
    "notebook", with_examples(["early", "explorer", "figure_02", "figure_15"], ["figure_02"])
)
def test_no_net_learned_enough(
    notebook: str,
    at_chance: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = run(notebook, at_chance, monkeypatch)
    printed = capsys.readouterr().out
    assert ": no net learned enough; what is below tells nothing about pruning" in printed
    assert "learned too little" in text or notebook in ("early", "figure_15")
