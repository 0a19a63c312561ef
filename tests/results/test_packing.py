"""Packing moves rows from one file into another, and changes none."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import SMOKE_FLEET
from tests.helpers import comparing
from tests.helpers.made_rows import complete_rows
from threeregime import cli
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments import Experiment
from threeregime.protocol import Protocol
from threeregime.results import (
    KINDS,
    finished_dense,
    finished_nets,
    load_results,
    pack,
    packing,
    read_shard,
    shards,
    tables,
    write_shard,
)
from threeregime.results.packed import read_packed, read_provenance
from threeregime.results.stored import StoredTables
from threeregime.sweep import make_plan, run_sweep

PACKED = ["dense.parquet", "nets.parquet", "pairs.parquet", "provenance.json"]


@pytest.fixture
def experiment() -> Experiment:
    return catalogue.load_experiment("figure_02", "smoke")


@pytest.fixture
def root(smoke: Path, tmp_path: Path) -> Path:
    """A copy of a finished sweep's shards and checkpoints."""
    shutil.copytree(smoke, tmp_path / "root")
    return tmp_path / "root"


def folder(root: Path) -> Path:
    return root / "figure_02" / "smoke"


def contents(at: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in at.iterdir() if path.is_file()}


def pack_all(root: Path) -> list[tuple[str, str, int]]:
    return list(pack(root))


def test_packed_tables_are_read_as_the_shards_were(
    experiment: Experiment, smoke: Path, root: Path
) -> None:
    assert pack_all(root) == [("figure_02", "smoke", 7)]
    assert sorted(contents(folder(root))) == PACKED
    assert comparing.tables(experiment, root) == comparing.tables(experiment, smoke)
    assert finished_nets(experiment, root) == finished_nets(experiment, smoke)
    assert finished_dense(experiment, root) == finished_dense(experiment, smoke)
    got, expected = (load_results(experiment, at) for at in (root, smoke))
    assert got.id == expected.id
    pd.testing.assert_frame_equal(got.provenance, expected.provenance)
    for kind in KINDS:
        assert getattr(got, kind).dtypes.equals(getattr(expected, kind).dtypes)


def test_rows_are_sorted_and_keep_every_column(smoke: Path, root: Path) -> None:
    pack_all(root)
    for kind, keys in {
        "dense": ["variant", "epochs", "dense_seed", "fleet"],
        "nets": ["variant", "epochs", "density", "dense_seed", "retrain_seed", "fleet"],
        "pairs": ["variant", "epochs", "density", "dense_seed", "seed_a", "seed_b", "fleet"],
    }.items():
        paths = shards.shard_paths(folder(smoke), kind).values()
        expected = pd.concat([read_shard(path)[0] for path in paths])
        packed = read_packed(folder(root), kind)
        assert packed is not None
        pd.testing.assert_frame_equal(
            packed.to_pandas(), expected.sort_values(keys, ignore_index=True), check_exact=True
        )


def test_every_fleet_keeps_its_provenance(smoke: Path, root: Path) -> None:
    pack_all(root)
    records = read_provenance(folder(root))
    for kind in ("dense", "nets", "pairs"):
        for fleet, path in shards.shard_paths(folder(smoke), kind).items():
            assert records.pop(fleet, read_shard(path)[1]) == read_shard(path)[1]
    assert not records
    # one line for a fleet, one for a protocol, whichever fleets share it
    lines = (folder(root) / "provenance.json").read_text().splitlines()
    assert len(lines) == 6 + 4 + 1 + 6  # brackets and names, fleets, a dense protocol, cells


def test_a_second_call_changes_nothing(root: Path) -> None:
    pack_all(root)
    before = contents(folder(root))
    stamps = [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))]
    assert pack_all(root) == []
    assert contents(folder(root)) == before
    assert [path.stat().st_mtime_ns for path in sorted(root.rglob("*"))] == stamps


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_shards_give_the_same_bytes_in_any_order(
    order: Sequence[int], smoke: Path, root: Path, tmp_path: Path
) -> None:
    pack_all(root)
    at = folder(tmp_path / "pieces")
    at.mkdir(parents=True)
    fleets = list(shards.shard_paths(folder(smoke), "nets"))
    for number in order:
        for kind in ("nets", "pairs"):
            shutil.copy(shards.shard_path(folder(smoke), kind, fleets[number]), at)
        if number == 1:
            (dense,) = shards.shard_paths(folder(smoke), "dense").values()
            shutil.copy(dense, at)
        pack_all(tmp_path / "pieces")
    assert contents(at) == contents(folder(root))


class Killed(BaseException):
    """Ends the process at one moment."""


@pytest.mark.parametrize("moment", range(12))
def test_a_kill_at_any_moment_loses_and_doubles_nothing(
    moment: int,
    experiment: Experiment,
    smoke: Path,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(root, tmp_path / "whole")
    pack_all(tmp_path / "whole")
    replace, unlink, count = os.replace, Path.unlink, itertools.count()

    def stop(function: Any) -> Any:
        def stopped(*arguments: Any, **options: Any) -> Any:
            # What tidies up after a failed write is not killed once more.
            if "missing_ok" not in options and next(count) == moment:
                raise Killed
            return function(*arguments, **options)

        return stopped

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop(replace))
        patch.setattr(Path, "unlink", stop(unlink))
        if moment < 4 + 7:  # files written, shards removed
            with pytest.raises(Killed):
                pack_all(root)
        else:
            pack_all(root)
    assert comparing.tables(experiment, root) == comparing.tables(experiment, smoke)
    assert make_plan(experiment, root, SMOKE_FLEET).jobs == ()
    pack_all(root)
    assert contents(folder(root)) == contents(folder(tmp_path / "whole"))


def test_a_sweep_goes_on_from_packed_tables(
    experiment: Experiment, smoke: Path, root: Path
) -> None:
    first, *_, last = shards.shard_paths(folder(root), "nets")
    for kind in ("nets", "pairs"):
        shards.shard_path(folder(root), kind, first).unlink()
    shards.shard_path(folder(root), "pairs", last).unlink()
    pack_all(root)
    # nets without pairs are unfinished: they are neither packed nor counted
    left = [path.name for path in folder(root).glob("*-*.parquet")]
    assert left == [f"nets-{last}.parquet"]
    assert {job.fleet for job in make_plan(experiment, root, SMOKE_FLEET).jobs} == {first, last}
    assert run_sweep(experiment, root, device="cpu", workers=1, fleet=SMOKE_FLEET)
    assert comparing.tables(experiment, root) == comparing.tables(experiment, smoke)
    assert comparing.checkpoints(root) == comparing.checkpoints(smoke)
    pack_all(root)
    assert sorted(contents(folder(root))) == PACKED
    assert comparing.tables(experiment, root) == comparing.tables(experiment, smoke)


def test_dense_runs_are_known_from_packed_tables(experiment: Experiment, root: Path) -> None:
    pack_all(root)
    (folder(root) / "pairs.parquet").unlink()
    jobs = make_plan(experiment, root, SMOKE_FLEET)
    assert (len(jobs.dense), len(jobs.retrain)) == (0, 3)
    (folder(root) / "dense.parquet").unlink()
    assert len(make_plan(experiment, root, SMOKE_FLEET).dense) == 1


def test_a_fleet_in_both_places_is_read_from_the_packed_table(
    experiment: Experiment, smoke: Path, root: Path
) -> None:
    pack_all(root)
    path = next(iter(shards.shard_paths(folder(smoke), "nets").values()))
    rows, record = read_shard(path)
    write_shard(folder(root) / path.name, rows.assign(test_error=0.125), record)
    assert comparing.tables(experiment, root) == comparing.tables(experiment, smoke)
    before = contents(folder(root))
    assert pack_all(root) == [("figure_02", "smoke", 1)]
    assert contents(folder(root)) == {n: b for n, b in before.items() if n != path.name}


def made_shard(at: Path, kind: str, fleet: str, **columns: list[Any]) -> None:
    """Write a shard of two rows whose protocol asks for early epochs."""
    protocol = Protocol().replace("metrics.early", [1]).to_dict(defaults=False)
    rows = pd.DataFrame({"variant": ["", ""], **columns, "fleet": [fleet, fleet]})
    record = {"fleet": fleet, "protocols": {"c": protocol}}
    write_shard(shards.shard_path(at, kind, fleet), complete_rows(kind, rows), record)


def test_a_fleet_without_the_early_rows_it_was_asked_for_is_not_packed(tmp_path: Path) -> None:
    at = tmp_path / "some" / "clutter"
    made_shard(at, "nets", "f", dense_seed=[0, 0], retrain_seed=[0, 1])
    made_shard(at, "pairs", "f", dense_seed=[0, 1])
    assert packing.pack_folder(at) == 0
    assert StoredTables(at).complete() == set()
    made_shard(at, "early", "f", dense_seed=[0, 0], epoch=[1, 2])
    assert packing.pack_folder(at) == 3
    assert StoredTables(at).complete() == {"f"}


def test_columns_that_some_fleets_lack_are_null_there(tmp_path: Path) -> None:
    at = tmp_path / "some" / "clutter"
    made_shard(at, "dense", "b", rho=[0.2, 0.1], dense_seed=[0, 0], test_error=[0.1, float("nan")])
    packing.pack_folder(at)
    made_shard(
        at, "dense", "a", rho=[0.1, 0.1], dense_seed=[1, 0], hessian_top=[1.0, 2.0], new=[3, 4]
    )
    packing.pack_folder(at)
    rows = StoredTables(at).rows("dense")
    errors = ["test_error", "train_error"]
    order = ["variant", "rho", "dense_seed", *errors, "diverged", "hessian_top", "new", "base"]
    assert list(rows) == [*order, "fleet"]
    assert rows["fleet"].tolist() == ["a", "b", "a", "b"]
    assert rows["hessian_top"].fillna(-1).tolist() == [2, -1, 1, -1]
    assert rows["test_error"].isna().tolist() == [False, True, False, False]


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("damage", ["cut off", "empty", "foreign"])
def test_a_damaged_file_is_named_in_one_line(
    name: str,
    damage: str,
    experiment: Experiment,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pack_all(root)
    path = folder(root) / name
    if damage == "foreign":
        pd.DataFrame({"a": [1]}).to_parquet(path)
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:500])
    if name == "dense.parquet":  # the nets are there
        assert not len(load_results(experiment, root).dense)
    else:
        with pytest.raises(ThreeRegimeError, match="run the sweep again") as caught:
            load_results(experiment, root)
        assert str(path) in str(caught.value)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if f"{path} is not a" in line]
    assert "run the sweep again" in line
    with pytest.raises(ThreeRegimeError, match="is not a results table"):
        pack_all(root)


def test_provenance_that_was_edited_is_refused(experiment: Experiment, root: Path) -> None:
    pack_all(root)
    path = folder(root) / "provenance.json"
    content = json.loads(path.read_text())
    one = next(iter(content["protocols"].values()))
    one["dense"]["lr"] = 0.3
    path.write_text(json.dumps(content))
    with pytest.raises(ThreeRegimeError, match="was changed"):
        load_results(experiment, root)
    path.unlink()
    with pytest.raises(ThreeRegimeError, match=r"provenance.json has no record of fleet \w+\)"):
        load_results(experiment, root)


def test_two_processes_do_not_pack_the_same_folder(root: Path) -> None:
    handle = os.open(folder(root), os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(ThreeRegimeError, match="another process is packing .*: wait for it"):
            pack_all(root)
    finally:
        os.close(handle)
    assert pack_all(root)


def test_the_command_packs_what_it_is_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["threeregime", "results", "pack", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0)

    shutil.copytree(root / "figure_02", root / "other")
    assert run("figure_02", "--root", str(root)) == 0
    assert capsys.readouterr().out == "figure_02, smoke: 7 files merged\n"
    assert (folder(root) / "nets.parquet").exists()
    assert not (root / "other" / "smoke" / "nets.parquet").exists()
    assert run("--root", str(root)) == 0
    assert capsys.readouterr().out == "other, smoke: 7 files merged\n"
    assert run("--root", str(root)) == 0
    assert capsys.readouterr().out == "nothing to do: all is packed\n"
    assert run("figure_99", "--root", str(root)) == 2
    assert "has no tables of 'figure_99': one of figure_02, other" in capsys.readouterr().err


def test_shipped_tables_are_packed_and_name_the_protocols_of_their_rows() -> None:
    folders = [path for path in tables.ROOT.glob("*/*") if path.is_dir()]
    assert len(folders) > 20
    for at in folders:
        stored = StoredTables(at)
        assert not any(stored.shards.values()), f"{at}: run `threeregime results pack`"
        for fleet, rows in stored.rows("nets").groupby("fleet"):
            record = stored.records("nets")[str(fleet)]
            assert set(record["protocols"]) == set(rows["cell"])
            assert record["nets"] == len(rows)
        for fleet, rows in stored.rows("dense").groupby("fleet"):
            record = stored.records("dense")[str(fleet)]
            assert record["seeds"]["dense"] == sorted(set(rows["dense_seed"]))
