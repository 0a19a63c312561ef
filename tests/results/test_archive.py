"""The archive of a release: what it holds, that its manifest is right, and that it is reproducible."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from threeregime.errors import ThreeRegimeError
from threeregime.results import archive, tables


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The tables of Figure 7 alone."""
    shutil.copytree(tables.ROOT / "figure_07", tmp_path / "tables" / "figure_07")
    return tmp_path / "tables"


def test_manifest_is_that_of_the_files_in_the_archive(root: Path, tmp_path: Path) -> None:
    path, beside = archive.write_archive(root, tmp_path / "out")
    manifest = json.loads(beside.read_text())
    assert manifest.keys() == {"version", "commit", "files"}
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "new", filter="data")
    assert (tmp_path / "new" / "manifest.json").read_bytes() == beside.read_bytes()
    for entry in manifest["files"]:
        content = (tmp_path / "new" / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) == entry["bytes"]
        if entry["path"].endswith(".parquet"):
            assert pq.read_metadata(tmp_path / "new" / entry["path"]).num_rows == entry["rows"]
    kept = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    assert {entry["path"].removeprefix("results/") for entry in manifest["files"]} == kept


def test_equal_tables_are_equal_bytes(root: Path, tmp_path: Path) -> None:
    one, _ = archive.write_archive(root, tmp_path / "one")
    for path in root.rglob("*.parquet"):
        path.touch()
    other, _ = archive.write_archive(root, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_damaged_or_missing_tables_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ThreeRegimeError, match="no packed tables"):
        archive.write_archive(tmp_path / "nowhere", tmp_path / "out")
    damaged = root / "figure_07" / "clutter" / "nets.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-10])
    with pytest.raises(ThreeRegimeError, match=r"nets\.parquet"):
        archive.write_archive(root, tmp_path / "out")
