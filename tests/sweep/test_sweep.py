"""From plan to tables: jobs, their files, and the tables loaded from them."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.helpers import comparing
from tests.helpers.made_rows import complete_rows
from threeregime._files import atomic_write
from threeregime.data import registry
from threeregime.data.images import ImageBatches, plain_images
from threeregime.data.task import stream_seed
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet
from threeregime.metrics.pairs import measure_pairs
from threeregime.models.registry import PreResNet
from threeregime.protocol import Protocol
from threeregime.pruning import magnitude
from threeregime.results import (
    KINDS,
    NUMBERS,
    DamagedTable,
    load_results,
    read_shard,
    reference,
    shards,
    tables,
    write_shard,
)
from threeregime.results.tables import Results
from threeregime.sweep import compute as sweep
from threeregime.sweep.jobs import run_job
from threeregime.sweep.plan import DenseJob, JobContext, RetrainJob, make_plan
from threeregime.training import run as training
from threeregime.training.evaluation import evaluate_errors

FLEET = 8  # as the fixture ``smoke``


@pytest.fixture
def experiment() -> Experiment:
    return catalogue.load_experiment("figure_02", "smoke")


@pytest.fixture
def tiny(experiment: Experiment) -> Experiment:
    """One cell, one dense seed, two copies, few images: a sweep in a fraction of a second."""
    fields = {"dense.epochs": 2, "dense.milestones": [1], "data.images": 160}
    return experiment.with_fields(fields).with_values(epochs=[2], density=[0.2]).with_seeds(1, 2)


def compute(experiment: Experiment, root: Path, fleet: int = FLEET) -> Results:
    assert sweep.run_sweep(experiment, root, device="cpu", workers=1, fleet=fleet)
    return load_results(experiment, root)


def contents(root: Path) -> dict[str, str]:
    """Every file below a folder with its digest."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


def names(job: RetrainJob) -> list[tuple[float, float, int]]:
    return [(unit.temperature, unit.load, unit.dense_seed) for unit in job.units]


# --- the plan


def test_the_plan_covers_every_unit_once_in_order(experiment: Experiment, tmp_path: Path) -> None:
    plan = make_plan(experiment, tmp_path, FLEET)
    assert [job.nets for job in plan.retrain] == [8, 8, 8]
    assert [unit for job in plan.retrain for unit in job.units] == experiment.units()
    (dense,) = plan.dense
    assert (dense.seeds, dense.stops) == ((0, 1), (2, 4))
    assert plan.jobs == (dense, *plan.retrain)  # dense runs come first
    assert list(tmp_path.iterdir()) == []  # planning writes nothing


def test_members_and_pairs_of_a_fleet(experiment: Experiment, tmp_path: Path) -> None:
    job = make_plan(experiment.with_seeds(1, 3), tmp_path, FLEET).retrain[0]
    assert len(job.units) == 2  # two units of three copies are as many as eight places hold
    assert [seed for _, seed in job.members] == [0, 1, 2, 0, 1, 2]
    assert [unit for unit, _ in job.members] == [job.units[0]] * 3 + [job.units[1]] * 3
    # copies of one pruned net are compared, and no others
    assert job.pairs == [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
    assert job.nets == 6


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 3), st.integers(2, 5))
def test_fleets_are_as_large_as_allowed_and_nearly_equal(
    members: int, dense: int, copies: int
) -> None:
    experiment = catalogue.load_experiment("figure_02", "smoke").with_seeds(dense, copies)
    plan = make_plan(experiment, Path("nowhere"), members)
    units = [len(job.units) for job in plan.retrain]
    assert sum(units) == 6 * dense
    assert max(units) * copies <= max(members, copies)
    assert max(units) - min(units) <= 1
    most = max(1, members // copies)
    assert len(units) == math.ceil(6 * dense / most)  # and no more fleets than it takes


def finish(job: RetrainJob, at: Path, kinds: tuple[str, ...] = ("nets", "pairs")) -> None:
    """Put tables in place as if the job had been done."""
    rows = pd.DataFrame(
        [
            {
                "cell": unit.protocol.hash(),
                "dense_seed": unit.dense_seed,
                "retrain_seed": seed,
                "fleet": job.fleet,
            }
            for unit, seed in job.members
        ]
    )
    for kind in kinds:
        table = complete_rows(kind, rows)
        if kind == "pairs":
            table["seed_a"] = range(len(table))
        write_shard(at / f"{kind}-{job.fleet}.parquet", table, {"fleet": job.fleet})


def finish_dense(job: DenseJob, at: Path) -> None:
    """Put the table of a dense fleet in place as if it had been trained."""
    places = list(itertools.product(job.stops, job.seeds))
    rows = pd.DataFrame(places, columns=["epochs", "dense_seed"])
    rows = complete_rows("dense", rows.assign(base=job.base, fleet=job.fleet))
    write_shard(at / f"dense-{job.fleet}.parquet", rows, {"fleet": job.fleet})


@pytest.mark.parametrize("finished", list(itertools.product([False, True], repeat=4)))
def test_fleets_do_not_depend_on_what_is_finished(
    finished: tuple[bool, ...], experiment: Experiment, tmp_path: Path
) -> None:
    experiment = experiment.with_seeds(3, 2)
    first = make_plan(experiment, tmp_path, members=10)
    # what is left could be spread otherwise: 14 units would make fleets of 5, 4 and 5
    assert [len(job.units) for job in first.retrain] == [4, 5, 5, 4]
    finish_dense(first.dense[0], first.folder)
    for job, is_done in zip(first.retrain, finished, strict=True):
        if is_done:
            finish(job, first.folder)
    again = make_plan(experiment, tmp_path, members=10)
    left = [job for job, is_done in zip(first.retrain, finished, strict=True) if not is_done]
    assert list(again.retrain) == left
    assert [job.fleet for job in again.retrain] == [job.fleet for job in left]
    # nothing left: no dense run either
    assert (again.jobs == ()) == all(finished)


def test_nets_without_their_pairs_are_not_finished(experiment: Experiment, tmp_path: Path) -> None:
    first = make_plan(experiment, tmp_path, FLEET)
    finish(first.retrain[0], first.folder, kinds=("nets",))
    finish(first.retrain[1], first.folder, kinds=("pairs",))
    assert make_plan(experiment, tmp_path, FLEET).retrain == first.retrain


def test_results_in_other_folders_count_as_finished(experiment: Experiment, tmp_path: Path) -> None:
    shipped, own = tmp_path / "shipped", tmp_path / "own"
    shipped_plan = make_plan(experiment, shipped, FLEET)
    finish_dense(shipped_plan.dense[0], shipped_plan.folder)
    for job in shipped_plan.retrain:
        finish(job, shipped_plan.folder)
    assert make_plan(experiment, own, FLEET, other_roots=[shipped]).jobs == ()
    more = experiment.with_values(density=[0.05, 0.2, 0.33, 0.8])
    left = make_plan(more, own, FLEET, other_roots=[shipped])
    assert {unit.load for job in left.retrain for unit in job.units} == {0.33}
    assert left.folder.is_relative_to(own)


def test_different_recipes_are_not_packed_together(tmp_path: Path) -> None:
    experiment = catalogue.load_experiment("weight_decay", "smoke")
    plan = make_plan(experiment, tmp_path)
    assert len(plan.retrain) == len(plan.dense) == 2
    for job in plan.jobs:
        assert len({u.variant for u in job.units} if isinstance(job, RetrainJob) else {0}) == 1
    decays = [job.protocol.retraining.weight_decay for job in plan.retrain]
    assert sorted(decays) == [1e-4, 2e-3]


def test_the_identity_of_a_fleet_is_its_recipe_and_who_is_in_it(experiment: Experiment) -> None:
    def ids(experiment: Experiment, fleet: int = FLEET) -> list[str]:
        return [job.fleet for job in make_plan(experiment, Path("nowhere"), fleet).jobs]

    first = ids(experiment)
    assert len(set(first)) == 4
    assert ids(experiment) == first
    others = [
        experiment.with_seeds(2, 3),
        experiment.with_fields({"metrics.points": 5}),
        experiment.with_fields({"retraining.lr": 0.2}),
    ]
    for other in others:
        assert ids(other)[0] == first[0]  # the same dense runs
        assert not set(ids(other)[1:]) & set(first)
    assert not set(ids(experiment.with_fields({"dense.lr": 0.2}))) & set(first)
    assert ids(experiment.with_values(epochs=[2]))[0] != first[0]  # it leaves fewer checkpoints


def test_work_is_counted_in_net_epochs(experiment: Experiment, tmp_path: Path) -> None:
    plan = make_plan(experiment, tmp_path, FLEET)
    # 2 dense nets of 4 epochs; 24 of 2, and two forward passes of three at 11 points of 12 pairs
    assert plan.cost == pytest.approx(2 * 4 + 24 * 2 + 12 * 11 * 2 / 3)
    (short,) = make_plan(experiment.with_values(epochs=[2]), tmp_path, FLEET).dense
    assert short.cost == 4  # it stops where nothing later is wanted


# --- a sweep, whole


def test_the_tables_hold_the_whole_grid(experiment: Experiment, smoke: Path) -> None:
    got = load_results(experiment, smoke)
    assert (got.temperature, got.load) == ("epochs", "density")
    assert list(got.dense) == [
        *("variant", "epochs", "dense_seed", "test_error", "train_error", "diverged", "fleet")
    ]
    assert got.dense[["epochs", "dense_seed"]].to_numpy().tolist() == [
        [2, 0],
        [2, 1],
        [4, 0],
        [4, 1],
    ]
    assert set(got.nets) >= {
        *("epochs", "density", "dense_seed", "retrain_seed", "test_error", "train_error"),
        *("diverged", "cell", "fleet"),
    }
    cells = ["epochs", "density", "dense_seed"]
    grid = list(itertools.product([2, 4], [0.05, 0.2, 0.8], [0, 1]))
    keys = got.nets[[*cells, "retrain_seed"]].itertuples(index=False, name=None)
    assert list(keys) == [(*cell, seed) for cell in grid for seed in (0, 1)]
    keys = got.pairs[[*cells, "seed_a", "seed_b"]].itertuples(index=False, name=None)
    assert list(keys) == [(*cell, 0, 1) for cell in grid]
    assert not got.nets["diverged"].any()
    for table in (got.dense, got.nets):
        assert table["test_error"].between(0.02, 0.95).all()
        assert table["train_error"].between(0, 0.95).all()
    assert got.nets["epochs"].dtype == np.int64


def test_the_numbers_of_a_pair_fit_together(experiment: Experiment, smoke: Path) -> None:
    pairs = load_results(experiment, smoke).pairs
    for row in pairs.to_dict("records"):
        curve = np.array(row["curve"])
        assert curve.shape == (11,)
        gap = (curve[0] + curve[-1]) / 2 - curve
        assert abs(row["lmc"]) == pytest.approx(np.abs(gap).max(), abs=1e-12)
        assert row["lmc"] == pytest.approx(gap[round(10 * row["t_star"])], abs=1e-12)
        assert 0 < row["cka_softmax"] <= 1
        assert 0 < row["cka_logits"] <= 1
    # two epochs of retraining leave much to be desired at 5 %, and copies apart
    assert (pairs["cka_logits"] < 0.999).all()


def test_better_trained_denser_nets_are_better(experiment: Experiment, smoke: Path) -> None:
    """Even at this scale the numbers mean something: a mix-up of members would show."""
    got = load_results(experiment, smoke)
    error = got.nets.groupby("density")["test_error"].mean()
    assert error[0.05] > error[0.2] > error[0.8]
    assert error[0.8] < 0.5
    dense = got.dense.groupby("epochs")["test_error"].mean()
    assert dense[4] < dense[2]


def test_only_tables_and_dense_checkpoints_are_left(smoke: Path) -> None:
    at = smoke / "figure_02" / "smoke"
    files = sorted(path.relative_to(at) for path in at.rglob("*") if path.is_file())
    kinds = [str(file).split("-")[0] for file in files]
    assert kinds == ["dense"] + ["nets"] * 3 + ["pairs"] * 3 + ["state/dense"] * 4
    assert not any(file.name.startswith(".") for file in files)


def test_a_dense_row_is_the_error_of_its_checkpoint(experiment: Experiment, smoke: Path) -> None:
    """Recomputed with a plain module from the checkpoint's file."""
    digits = registry.load_images("digits")
    dense = load_results(experiment, smoke).dense
    at = smoke / "figure_02" / "smoke" / "state"
    for row in dense.to_dict("records"):
        file = f"dense-{experiment.protocol.dense_hash}-{row['dense_seed']}-{row['epochs']}"
        net = PreResNet(8, 0.25, 1, 10)
        net.load_state_dict(load_file(at / f"{file}.safetensors"), strict=False)
        net.eval()
        with torch.no_grad():
            for kind, images, labels in (
                ("test_error", digits.test_images, digits.test_labels),
                ("train_error", digits.train_images, digits.train_labels),
            ):
                guess = net(plain_images(digits, images, torch.float32)).argmax(dim=1)
                # float32 in another order: an image on the edge may fall to either side
                assert row[kind] == pytest.approx(
                    (guess != labels).double().mean().item(), abs=2.1 / len(labels)
                )


def engine_of(root: Path, kind: str, fleet: str) -> Engine:
    """The engine that a fleet's table says it was run by."""
    path = root / "figure_02" / "smoke" / f"{kind}-{fleet}.parquet"
    return Engine.from_name(read_shard(path)[1]["engine"])


def test_dense_checkpoints_are_what_the_engine_computes(
    experiment: Experiment, smoke: Path
) -> None:
    """The dense runs again without the sweep: who is drawn and trained from which stream."""
    (job,) = make_plan(experiment, Path("nowhere"), FLEET).dense
    engine = engine_of(smoke, "dense", job.fleet)
    fleet = Fleet.initial(
        lambda: PreResNet(8, 0.25, 1, 10),
        [stream_seed("initial", seed) for seed in (0, 1)],
        backend=engine.backend,
    )
    streams = [stream_seed("dense", seed) for seed in (0, 1)]
    loader = ImageBatches(registry.load_images("digits"), streams, 32, crop=1, flip=False)
    run = training.TrainingRun(fleet, loader, experiment.protocol.dense, engine)
    for epoch in range(1, 5):
        run.run_epoch()
        for seed in (0, 1) if epoch in job.stops else ():
            file = f"dense-{experiment.protocol.dense_hash}-{seed}-{epoch}.safetensors"
            saved = load_file(smoke / "figure_02" / "smoke" / "state" / file)
            state = fleet.state()
            assert set(saved) == set(state)
            assert all(torch.equal(saved[name], state[name][seed]) for name in state)


def test_a_fleets_tables_are_what_the_engine_computes(experiment: Experiment, smoke: Path) -> None:
    """One fleet again without the sweep: which checkpoint, mask, stream and epochs count."""
    got = load_results(experiment, smoke)
    job = make_plan(experiment, Path("nowhere"), FLEET).retrain[1]
    digits = registry.load_images("digits")
    at = smoke / "figure_02" / "smoke" / "state"
    starts = [
        load_file(
            at / f"dense-{experiment.protocol.dense_hash}-{unit.dense_seed}-"
            f"{unit.protocol.dense.stop}.safetensors"
        )
        for unit, _ in job.members
    ]
    state = {name: torch.stack([start[name] for start in starts]) for name in starts[0]}
    engine = engine_of(smoke, "nets", job.fleet)
    fleet = Fleet(lambda: PreResNet(8, 0.25, 1, 10), state, backend=engine.backend)
    streams = [stream_seed("retrain", unit.dense_seed, seed) for unit, seed in job.members]
    loader = ImageBatches(digits, streams, 32, crop=1, flip=False)
    run = training.TrainingRun(fleet, loader, experiment.protocol.retraining, engine)
    run.prune(
        magnitude.magnitude_masks(
            {name: state[name] for name in fleet.prunable()},
            ["uniform"] * job.nets,
            [unit.load for unit, _ in job.members],
        )
    )
    test = []
    for _ in range(2):  # both epochs count: error_epochs is 2 at this scale
        run.run_epoch()
        test.append(evaluate_errors(fleet, digits, train=False))
    pairs = measure_pairs(fleet, job.pairs, digits, samples=256)
    nets = got.nets[got.nets["fleet"] == job.fleet]
    keys = [(u.temperature, u.load, u.dense_seed, seed) for u, seed in job.members]
    nets = nets.set_index(["epochs", "density", "dense_seed", "retrain_seed"]).loc[keys]
    assert nets["test_error"].tolist() == ((test[0] + test[1]) / 2).tolist()
    assert nets["train_error"].tolist() == evaluate_errors(fleet, digits, train=True).tolist()
    rows = got.pairs[got.pairs["fleet"] == job.fleet]
    rows = rows.set_index(["epochs", "density", "dense_seed"]).loc[names(job)]
    for column in ("lmc", "t_star", "cka_softmax", "cka_logits"):
        assert rows[column].tolist() == getattr(pairs, column).tolist()
    assert [list(curve) for curve in rows["curve"]] == pairs.curve.tolist()


def test_every_shard_says_where_it_comes_from(experiment: Experiment, smoke: Path) -> None:
    paths = sorted((smoke / "figure_02" / "smoke").glob("*.parquet"))
    assert len(paths) == 7
    for path in paths:
        rows, origin = read_shard(path)
        kind, _, fleet = path.stem.partition("-")
        assert origin["fleet"] == fleet
        assert set(rows["fleet"]) == {fleet}
        assert (origin["experiment"], origin["scale"]) == ("figure_02", "smoke")
        assert origin["nets"] == (2 if kind == "dense" else 8)
        assert origin["seeds"]["dense"] == sorted(set(rows["dense_seed"]))
        assert origin["seconds"] > 0
        assert origin["device"].startswith("CPU, ")
        assert Engine.from_name(origin["engine"]).name == origin["engine"]
        assert origin["versions"]["torch"] == torch.__version__
        assert origin["commit"]
        assert origin["numbers"] == NUMBERS
        assert pd.Timestamp(origin["created"]) <= pd.Timestamp.now("UTC")
        # the recipe itself is there, and its hash is the one that the rows name
        recipes = {h: Protocol.from_dict(p) for h, p in origin["protocols"].items()}
        if kind == "dense":
            assert {h: p.dense_hash for h, p in recipes.items()} == {h: h for h in recipes}
        else:
            assert {h: p.hash() for h, p in recipes.items()} == {h: h for h in recipes}
            assert set(recipes) == set(rows["cell"])
            for row in rows.to_dict("records"):
                assert recipes[row["cell"]].pruning.density == row["density"]
                assert recipes[row["cell"]].dense.stop == row["epochs"]
    got = load_results(experiment, smoke).provenance
    assert sorted(got["fleet"]) == sorted({path.stem.partition("-")[2] for path in paths})
    assert json.dumps(got["protocols"].tolist())


def test_what_a_record_needs_is_looked_up_before_training(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables whose provenance cannot be written, or not be read again, would cost all the work."""

    def epoch(run: training.TrainingRun) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(training.TrainingRun, "run_epoch", epoch)
    for name in ("a\nb.toml", "x/" * 2500 + "own.toml"):
        renamed = dataclasses.replace(tiny, name=name)
        plan = make_plan(renamed, tmp_path)
        context = JobContext(renamed, plan.folder, tmp_path, engine="grouped")
        with pytest.raises(ThreeRegimeError, match="cannot be written: experiment is not a text"):
            run_job(plan.jobs[0], context)

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    context = JobContext(tiny, plan.folder, tmp_path, engine="grouped")
    with pytest.raises(metadata.PackageNotFoundError):
        run_job(plan.jobs[0], context)


def test_an_experiment_whose_path_is_long_has_a_record(tiny: Experiment, tmp_path: Path) -> None:
    folder = tmp_path / "/".join(["x" * 200] * 4)
    results = compute(dataclasses.replace(tiny, name=str(folder / "own.toml")), tmp_path)
    assert len(results.provenance) == 2


def test_a_second_run_does_nothing(
    experiment: Experiment, smoke: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(smoke)
    stamps = {path: path.stat().st_mtime_ns for path in smoke.rglob("*")}
    compute(experiment, smoke)
    compute(experiment.with_values(density=[0.2]).with_seeds(1, 2), smoke)
    assert "nothing to do" in capsys.readouterr().out
    assert contents(smoke) == before
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*")} == stamps


def test_the_same_plan_run_twice_is_bit_identical(tiny: Experiment, tmp_path: Path) -> None:
    for root in ("one", "two"):
        compute(tiny, tmp_path / root)
    one, two = (contents(tmp_path / root) for root in ("one", "two"))
    state = [name for name in one if "/state/" in name]
    assert len(state) == 1
    assert {name: one[name] for name in state} == {name: two[name] for name in state}
    for kind in KINDS:
        first, second = (load_results(tiny, tmp_path / root) for root in ("one", "two"))
        pd.testing.assert_frame_equal(getattr(first, kind), getattr(second, kind), check_exact=True)


# --- parts of the grid, and beside it


def test_cells_off_the_grid_are_added_beside_it(
    experiment: Experiment, tiny: Experiment, tmp_path: Path
) -> None:
    on_grid = compute(tiny, tmp_path)
    off = tiny.with_values(epochs=[1, 2], density=[0.33])
    got = compute(off, tmp_path)
    assert got.nets[["epochs", "density"]].to_numpy().tolist() == [[1, 0.33]] * 2 + [[2, 0.33]] * 2
    # each is found by its own place, and what was there has stayed
    pd.testing.assert_frame_equal(load_results(tiny, tmp_path).nets, on_grid.nets)
    both = tiny.with_values(epochs=[1, 2], density=[0.2, 0.33])
    assert len(load_results(both, tmp_path).nets) == 6
    assert len(make_plan(both, tmp_path).retrain) == 1  # epochs 1, density 0.2
    with pytest.raises(ThreeRegimeError, match="no results of figure_02 at scale smoke"):
        load_results(tiny.with_values(density=[0.5]), tmp_path)


def test_more_seeds_take_up_the_dense_runs_that_are_there(
    experiment: Experiment, smoke: Path
) -> None:
    more = make_plan(experiment.with_seeds(2, 3), smoke, FLEET)
    assert more.dense == ()
    assert sum(job.nets for job in more.retrain) == 36
    third = make_plan(experiment.with_seeds(3, 2), smoke, FLEET)
    assert [job.seeds for job in third.dense] == [(2,)]
    assert {unit.dense_seed for job in third.retrain for unit in job.units} == {2}


def test_seeds_that_were_computed_twice_are_found_once(tiny: Experiment, tmp_path: Path) -> None:
    two = compute(tiny, tmp_path)
    three = tiny.with_seeds(1, 3)
    got = compute(three, tmp_path)
    assert got.nets["retrain_seed"].tolist() == [0, 1, 2]
    pairs = got.pairs[["seed_a", "seed_b"]].to_numpy().tolist()
    assert pairs == [[0, 1], [0, 2], [1, 2]]
    again = load_results(tiny, tmp_path)
    assert len(again.nets) == len(two.nets) == 2
    assert len(again.pairs) == 1


def test_seeds_filter_what_is_loaded(experiment: Experiment, smoke: Path) -> None:
    one = load_results(experiment.with_seeds(1, 2), smoke)
    assert set(one.dense["dense_seed"]) == set(one.nets["dense_seed"]) == {0}
    assert len(one.nets) == 12
    cell = load_results(experiment.with_values(epochs=[4], density=[0.8]), smoke)
    assert len(cell.nets) == 4
    assert set(cell.dense["epochs"]) == {4}


def test_another_protocol_is_kept_apart_in_the_same_folder(
    tiny: Experiment, tmp_path: Path
) -> None:
    changed = tiny.with_fields({"pruning.method": "global"})
    uniform, globally = compute(tiny, tmp_path), compute(changed, tmp_path)
    assert len(uniform.nets) == len(globally.nets) == 2
    assert set(uniform.nets["cell"]) & set(globally.nets["cell"]) == set()
    pd.testing.assert_frame_equal(load_results(tiny, tmp_path).nets, uniform.nets)
    # the dense run is shared: pruning has no part in it
    assert globally.dense["fleet"].tolist() == uniform.dense["fleet"].tolist()
    assert not load_results(changed, tmp_path).nets.equals(uniform.nets)
    with pytest.raises(ThreeRegimeError, match=r"run `threeregime sweep figure_02 --scale smoke`"):
        load_results(tiny.with_fields({"net.width": 0.5}), tmp_path)


def test_of_the_same_row_in_two_folders_the_first_counts(tiny: Experiment, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    compute(tiny, first)
    shutil.copytree(first, second)
    for path in (second / "figure_02" / "smoke").glob("nets-*.parquet"):
        rows, origin = read_shard(path)
        rows["test_error"] = 0.125
        write_shard(path, rows, origin)
    assert (load_results(tiny, second, first).nets["test_error"] == 0.125).all()
    assert (load_results(tiny, first, second).nets["test_error"] != 0.125).all()


def test_obtain_computes_what_the_shipped_tables_do_not_hold(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, own = tmp_path / "results", tmp_path / "own"
    monkeypatch.setattr(tables, "ROOT", shipped)
    compute(tiny, shipped)
    before = contents(shipped)
    results = sweep.obtain_results(tiny, device="cpu", runs=own)
    assert len(results.nets) == 2
    assert not own.exists()
    more = tiny.with_values(density=[0.2, 0.6])
    got = sweep.obtain_results(more, device="cpu", runs=own)
    assert sorted(got.nets["density"]) == [0.2, 0.2, 0.6, 0.6]
    assert contents(shipped) == before
    mine = load_results(tiny.with_values(density=[0.6]), own)
    assert len(mine.nets) == 2
    sweep.obtain_results(tiny, device="cpu", recompute=True, runs=own)
    assert len(load_results(tiny, own).nets) == 2


def test_variants_lie_side_by_side(tmp_path: Path) -> None:
    experiment = catalogue.load_experiment("weight_decay", "smoke").with_values(
        epochs=[2], density=[0.4]
    )
    experiment = experiment.with_fields({"data.images": 160})
    got = compute(experiment, tmp_path)
    assert got.nets["variant"].tolist() == ["1e-4"] * 2 + ["2e-3"] * 2
    one = got.variant("2e-3")
    assert (len(one.dense), len(one.nets), len(one.pairs)) == (1, 2, 1)
    assert set(one.nets["variant"]) == {"2e-3"}
    errors = got.nets.groupby("variant")["train_error"].apply(list)
    assert errors["1e-4"] != errors["2e-3"]


# --- nets that diverge


@pytest.fixture
def with_a_broken_start(smoke: Path, tmp_path: Path, experiment: Experiment) -> Path:
    """The smoke sweep before its retraining, with one dense checkpoint that is not a number."""
    at = tmp_path / "figure_02" / "smoke"
    shutil.copytree(smoke / "figure_02" / "smoke", at)
    for path in [*at.glob("nets-*"), *at.glob("pairs-*")]:
        path.unlink()
    broken = at / "state" / f"dense-{experiment.protocol.dense_hash}-1-2.safetensors"
    state = load_file(broken)
    state["stages.0.conv1.weight"][0, 0, 0, 0] = math.nan
    save_file(state, broken)
    return tmp_path


def test_a_net_that_diverged_does_not_stop_or_touch_its_fleet(
    experiment: Experiment, smoke: Path, with_a_broken_start: Path
) -> None:
    healthy, got = load_results(experiment, smoke), compute(experiment, with_a_broken_start)
    for kind, columns in (
        ("nets", ["test_error", "train_error"]),
        ("pairs", ["lmc", "t_star", "cka_softmax", "cka_logits"]),
    ):
        table, clean = getattr(got, kind), getattr(healthy, kind)
        ill = (table["epochs"] == 2) & (table["dense_seed"] == 1)
        assert ill.sum() == len(table) // 4
        assert table.loc[ill, columns].isna().all(axis=None)
        # its fleet holds healthy nets too, and they are what they were
        assert set(table.loc[ill, "fleet"]) & set(table.loc[~ill, "fleet"])
        pd.testing.assert_frame_equal(table[~ill][columns], clean[~ill][columns], check_exact=True)
    ill = (got.nets["epochs"] == 2) & (got.nets["dense_seed"] == 1)
    assert got.nets["diverged"].tolist() == ill.tolist()
    assert np.isnan([list(curve) for curve in got.pairs["curve"]]).sum() == 3 * 11
    # it counts as computed
    assert make_plan(experiment, with_a_broken_start, FLEET).jobs == ()


@pytest.mark.parametrize("run", ["dense", "retraining"])
def test_a_rate_far_too_high_diverges_and_is_recorded(
    run: str, tiny: Experiment, tmp_path: Path
) -> None:
    got = compute(tiny.with_fields({f"{run}.lr": 1e30}), tmp_path)
    assert got.nets["diverged"].tolist() == [True, True]
    assert got.nets[["test_error", "train_error"]].isna().all(axis=None)
    assert got.pairs[["lmc", "t_star", "cka_softmax", "cka_logits"]].isna().all(axis=None)
    assert got.dense["diverged"].tolist() == [run == "dense"]
    assert got.dense["test_error"].isna().tolist() == [run == "dense"]


# --- files that are not what they should be


def damaged(smoke: Path, tmp_path: Path, kind: str) -> Path:
    at = tmp_path / "figure_02" / "smoke"
    shutil.copytree(smoke / "figure_02" / "smoke", at)
    return sorted(at.glob(f"{kind}-*.parquet"))[0]


def flip_bit(path: Path) -> None:
    """Change one bit in the values of a table."""
    content = bytearray(path.read_bytes())
    content[len(content) // 8] ^= 1
    path.write_bytes(content)


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the rows of a shard, whose checksum then is right."""
    rows, record = read_shard(path)
    write_shard(path, change(rows), record)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
    "foreign": lambda path: pd.DataFrame({"a": [1]}).to_parquet(path),
    "flipped": flip_bit,
    "a column is missing": lambda path: rewrite(path, lambda rows: rows.drop(columns="variant")),
    "a row twice": lambda path: rewrite(path, lambda rows: pd.concat([rows, rows[:1]])),
    "an identity is empty": lambda path: rewrite(path, lambda rows: rows.assign(base=None)),
    "another fleet": lambda path: rewrite(path, lambda rows: rows.assign(fleet="0123456789ab")),
    "words for seeds": lambda path: rewrite(path, lambda rows: rows.assign(dense_seed="0")),
}


@pytest.mark.parametrize("kind", ["dense", "nets", "pairs"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_named_set_aside_and_computed_again(
    kind: str,
    damage: str,
    experiment: Experiment,
    smoke: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = damaged(smoke, tmp_path, kind)
    fleet = path.stem.partition("-")[2]
    DAMAGES[damage](path)
    results = load_results(experiment, tmp_path)  # of all other fleets
    assert fleet not in {*results.dense.get("fleet", ()), *results.nets["fleet"]}
    assert len(results.nets) == (24 if kind == "dense" else 16)
    assert len(results.pairs) == (12 if kind == "dense" else 8)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"threeregime: {path} is not a results table (")
    assert "run the sweep again" in line
    assert [job.fleet for job in make_plan(experiment, tmp_path, FLEET).jobs] == [fleet]
    assert path.exists()  # a plan changes nothing
    if damage == "flipped":
        assert compute(experiment, tmp_path).id == load_results(experiment, smoke).id
        assert path.with_name(f"{path.name}.broken").exists()
        assert comparing.tables(experiment, tmp_path) == comparing.tables(experiment, smoke)


@pytest.mark.parametrize(
    "change",
    [
        {"commit": "--output=/tmp/x"},
        {"commit": "master"},
        {"commit": 5},
        {"device": "two\nlines"},
        {"device": "x" * 5000},
        {"seconds": "long"},
        {"protocols": {"a": 5}},
        {"protocols": []},
    ],
)
def test_provenance_that_no_sweep_writes_is_damage(
    change: dict[str, object], experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    path = damaged(smoke, tmp_path, "nets")
    rows, record = read_shard(path)
    write_shard(path, rows, {**record, **change})
    with pytest.raises(DamagedTable, match="its provenance"):
        read_shard(path)
    assert len(load_results(experiment, tmp_path).nets) == 16


def test_tables_of_before_there_were_checksums_are_read(
    experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    path = damaged(smoke, tmp_path, "nets")
    table = pq.read_table(path)
    metadata = {k: v for k, v in table.schema.metadata.items() if k != shards.CHECKSUM_KEY}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert comparing.tables(experiment, tmp_path) == comparing.tables(experiment, smoke)


def test_a_lost_dense_table_is_computed_again(
    experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    """Though all retrained nets are there."""
    path = damaged(smoke, tmp_path, "dense")
    path.unlink()
    assert compute(experiment, tmp_path).dense.equals(load_results(experiment, smoke).dense)
    assert make_plan(experiment, tmp_path, FLEET).jobs == ()


def test_two_fleets_with_the_same_nets_count_once(tiny: Experiment, tmp_path: Path) -> None:
    """As two sweeps leave them that pack fleets of other sizes: one fleet gives all the rows."""
    compute(tiny, tmp_path)
    at = tmp_path / "figure_02" / "smoke"
    for kind in ("nets", "pairs"):
        (path,) = at.glob(f"{kind}-*.parquet")
        rows, record = read_shard(path)
        metric = "test_error" if kind == "nets" else "lmc"
        rows = rows.assign(fleet="0" * 12, **{metric: 0.25})
        write_shard(at / f"{kind}-{'0' * 12}.parquet", rows, {**record, "fleet": "0" * 12})
    got = load_results(tiny, tmp_path)
    assert len(got.nets) == 2
    assert (got.nets["test_error"] == 0.25).all()
    assert (got.pairs["lmc"] == 0.25).all()
    (at / f"pairs-{'0' * 12}.parquet").unlink()  # without its pairs it gives none of them
    assert (load_results(tiny, tmp_path).nets["test_error"] != 0.25).all()


def test_a_deleted_shard_is_planned_again(
    experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    path = damaged(smoke, tmp_path, "nets")
    fleet = path.stem.partition("-")[2]
    path.unlink()
    assert [job.fleet for job in make_plan(experiment, tmp_path, FLEET).jobs] == [fleet]


def test_other_files_in_the_folder_do_not_matter(
    experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    at = damaged(smoke, tmp_path, "nets").parent
    pd.DataFrame({"a": [1]}).to_parquet(at / "notes.parquet")
    (at / ".nets-0123.parquet.99").write_bytes(b"PAR1")  # left by a run that was killed
    (at / "README.md").write_text("notes")
    got, clean = (load_results(experiment, root) for root in (tmp_path, smoke))
    pd.testing.assert_frame_equal(got.nets, clean.nets)
    assert make_plan(experiment, tmp_path, FLEET).jobs == ()


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "nets-1.parquet"
    rows = pd.DataFrame({"a": [1.5, math.nan]})
    write_shard(path, rows, {"fleet": "1"})

    def fail(partial: Path) -> None:
        partial.write_bytes(b"half of it")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        atomic_write(path, fail)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    got, origin = read_shard(path)
    pd.testing.assert_frame_equal(got, rows)
    assert origin == {"fleet": "1"}


def test_the_papers_values_are_there() -> None:
    table = reference()
    assert list(table) == [
        *("epochs", "density", "test_error", "normalized_test_error", "lmc", "cka")
    ]
    assert len(table) == 16 * 9
    assert table["test_error"].between(0, 1).all()


def test_batch_size_is_a_temperature(tmp_path: Path) -> None:
    """Runs of equally many steps, not epochs: 96 of them are two epochs of 49 or eight of 12."""
    experiment = (
        catalogue.load_experiment("figure_07", "smoke").with_values(density=[0.4]).with_seeds(1, 2)
    )
    assert sweep.run_sweep(experiment, tmp_path, device="cpu", workers=1)
    got = load_results(experiment, tmp_path)
    assert got.dense["batch_size"].tolist() == [16, 64]
    assert got.nets["batch_size"].tolist() == [16, 16, 64, 64]
    assert not got.nets["diverged"].any()
    assert make_plan(experiment, tmp_path).jobs == ()
