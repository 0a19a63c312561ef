"""What is shipped, in a table and in a list: both say the same, and whether it is stale."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.helpers import spoiling
from threeregime.experiments import list_experiments, list_scales
from threeregime.results import (
    experiment_list,
    packed,
    provenance,
    shards,
    shipped_tables,
    status_table,
    tables,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A copy of the tables of one study."""
    shutil.copytree(tables.ROOT / "figure_07", tmp_path / "figure_07")
    return tmp_path


def test_table_says_what_there_is_and_what_is_missing(root: Path) -> None:
    (whole,) = status_table(root).to_dict("records")
    assert (whole["experiment"], whole["cells"], whole["nets"]) == ("figure_07", "36 of 36", 648)
    assert (whole["seeds"], whole["missing"]) == ("6 x 3", 0)
    spoiling.drop_fleet(root / "figure_07" / "clutter", "nets")
    (less,) = status_table(root).to_dict("records")
    assert less["missing"] == 648 - less["nets"] > 0
    # Nets whose pairs are not there have not all measurements.
    spoiling.drop_fleet(root / "figure_07" / "clutter", "pairs")
    (same,) = status_table(root).to_dict("records")
    assert same["missing"] == less["missing"]
    spoiling.drop_fleet(root / "figure_07" / "clutter", "pairs")
    (least,) = status_table(root).to_dict("records")
    assert least["missing"] == 648 - least["nets"] > less["missing"]


def record_numbers(root: Path, numbers: list[int | None]) -> None:
    """Let fleets have been made with some versions of the numbers, in turn."""
    path = root / "figure_07" / "clutter" / "provenance.json"
    content = json.loads(path.read_text())
    for position, record in enumerate(content["fleets"].values()):
        record.pop("numbers", None)
        number = numbers[position % len(numbers)]
        if number is not None:
            record["numbers"] = number
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("numbers", "stale"),
    [
        ([3], "no"),
        ([3, 2, 1], "yes (numbers 1, now 3)"),
        ([3, None], "unknown"),
        ([None], "unknown"),
    ],
)
def test_tables_of_other_numbers_are_stale(
    numbers: list[int | None], stale: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "NUMBERS", 3)
    record_numbers(root, numbers)
    (row,) = status_table(root).to_dict("records")
    assert row["stale"] == stale


def test_list_and_table_agree() -> None:
    table = status_table().set_index(["experiment", "scale"])
    assert len(table) > 20
    listed = {}
    for line in experiment_list():
        if title := re.fullmatch(r"(\w+): .*", line):
            name = title[1]
        elif row := re.fullmatch(r" {4}(\w+) +\d+ +(\d+ x \d+) +(yes|no|\d+ %)( \(JPEG\))? .*", line):
            listed[name, row[1]] = row
    assert listed.keys() == {(n, s) for n in list_experiments() for s in list_scales(n)}
    for key, row in listed.items():
        assert (row[3] != "no") == (key in table.index)
        if key in table.index:
            there = table.loc[[key]]
            assert (row[3] == "yes") == (0 in set(there["missing"]))
            assert row[2] in set(there["seeds"])
            assert bool(row[4]) == ("cifar10-jpeg" in set(there["data"]))


def test_walk_covers_every_folder_of_tables() -> None:
    found = [(one.experiment.name, one.experiment.scale) for one in shipped_tables()]
    assert sorted(set(found)) == sorted(
        (at.parent.name, at.name) for at in tables.ROOT.glob("*/*") if at.is_dir()
    )
    (mini,) = shipped_tables(names=["figure_02"], scales=["mini"])
    assert (mini.is_copy, mini.missing_nets, mini.share) == (True, 0, 1.0)
    assert mini.asked.protocol.data.name == "cifar10"
    assert pd.api.types.is_integer_dtype(mini.results.provenance["numbers"])
    assert not list(shipped_tables(Path("nowhere")))


def test_list_reads_each_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Any:
        read.append(path)
        return shards.read_table(path)

    monkeypatch.setattr(packed, "read_table", counted)
    assert len(list(experiment_list())) > 60
    assert sorted(read) == sorted(tables.ROOT.glob("*/*/*.parquet"))


def test_an_installed_package_names_no_commit_of_its_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "CHECKOUT", False)
    assert provenance.commit.__wrapped__() == "unknown"
