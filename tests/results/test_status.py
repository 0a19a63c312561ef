"""The state of the shipped tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from threeregime.results import status, tables


def test_every_shipped_table_has_a_row_and_a_missing_fleet_is_counted(tmp_path: Path) -> None:
    shutil.copytree(tables.ROOT / "figure_07", tmp_path / "figure_07")
    (whole,) = status.table(tmp_path).to_dict("records")
    assert (whole["cells"], whole["seeds"], whole["data"]) == ("48 of 48", "3 x 3", "digits")
    assert whole["hours"] > 0
    path = next((tmp_path / "figure_07" / "digits").glob("nets-*.parquet"))
    rows, _ = tables.read_shard(path)
    path.unlink()
    (part,) = status.table(tmp_path).to_dict("records")
    assert part["stale"] == f"{len(rows)} nets missing"


def test_what_makes_numbers_is_known_and_what_draws_them_is_not_counted() -> None:
    made = status.making()
    assert {"jobs.py", "training.py", "metrics.py", "pruning.py", "data.py"} <= set(made)
    assert not {"plots.py", "cli.py", "report.py", "claims.py", "regimes.py"} & set(made)


def test_without_history_staleness_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status.changed_since("0" * 12) is None
    assert status._stale(["0" * 12], missing=0) == "unknown"
    monkeypatch.setattr(status, "changed_since", lambda commit: ())
    assert status._stale(["abc"], missing=0) == "no"
    monkeypatch.setattr(status, "changed_since", lambda commit: ("jobs.py",))
    assert status._stale(["abc"], missing=0).startswith("1 of ")
