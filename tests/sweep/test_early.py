"""Measurements early in retraining survive interruptions and splits of their fleet."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from tests.helpers.cases import with_examples
from tests.helpers.comparing import tables
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.fleet.fleet import Fleet
from threeregime.results import Results, load_results
from threeregime.sweep import compute as sweep
from threeregime.sweep import jobs, resumable
from threeregime.sweep.plan import HESSIAN_EPOCHS, MEASURE_FORWARDS, make_plan
from threeregime.training import run as training

METRICS = ["lmc", "t_star", "cka_softmax", "cka_logits", "test_error"]


@pytest.fixture(scope="module")
def tiny() -> Experiment:
    """Four pruned nets of one dense run, three copies of each: a fleet of 12 nets and 12 pairs."""
    fields: dict[str, Any] = {
        "data.images": 160,
        "retraining.epochs": 4,
        "retraining.milestones": [2],
        "metrics.points": 3,
        "metrics.early": [1, 3, 4],
        "metrics.hessian": 0,
    }
    experiment = catalogue.load_experiment("diagnostics", "smoke").with_fields(fields)
    return experiment.with_values(epochs=[2], density=[0.1, 0.2, 0.4, 0.8]).with_seeds(1, 3)


def compute(experiment: Experiment, root: Path, **options: Any) -> bool:
    return sweep.run_sweep(experiment, root, device="cpu", workers=1, engine="grouped", **options)


@pytest.fixture(scope="module")
def root(tiny: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of its results, never interrupted; tests only read it."""
    folder = tmp_path_factory.mktemp("whole")
    assert compute(tiny, folder)
    return folder


@pytest.fixture(scope="module")
def whole(tiny: Experiment, root: Path) -> Results:
    return load_results(tiny, root)


def test_one_row_per_pair_and_epoch(tiny: Experiment, tmp_path: Path, whole: Results) -> None:
    early, pairs = whole.early, whole.pairs
    assert early["epoch"].tolist() == [1, 3, 4] * len(pairs)
    columns_of_cell = [*list(pairs)[:6], "cell", "fleet"]
    assert (
        list(early)[:6]
        == list(pairs)[:6]
        == [*("variant", "epochs", "density", "dense_seed", "seed_a", "seed_b")]
    )
    pd.testing.assert_frame_equal(
        early[::3][columns_of_cell].reset_index(drop=True), pairs[columns_of_cell]
    )
    # after the last epoch they are what the pairs are
    last = early[early["epoch"] == 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(last[METRICS[:4]], pairs[METRICS[:4]])
    assert not early[early["epoch"] == 1]["lmc"].reset_index(drop=True).equals(pairs["lmc"])
    # nets are the same whether or not they are looked at on their way
    blind = tiny.with_fields({"metrics.early": []})
    assert compute(blind, tmp_path / "blind")
    tables_without = load_results(blind, tmp_path / "blind")
    assert len(tables_without.early) == 0
    columns = ["test_error", "train_error"]
    pd.testing.assert_frame_equal(
        tables_without.nets[columns], whole.nets[columns], check_exact=True
    )
    assert not list((tmp_path / "blind").rglob("early-*"))


def test_the_error_is_the_mean_of_the_copies(tiny: Experiment, tmp_path: Path) -> None:
    one = tiny.with_fields({"metrics.error_epochs": 1}).with_values(density=[0.2])
    assert compute(one, tmp_path)
    got = load_results(one, tmp_path)
    nets = got.nets.set_index("retrain_seed")["test_error"]
    last = got.early[got.early["epoch"] == 4]
    expected = [
        (nets[a] + nets[b]) / 2 for a, b in zip(last["seed_a"], last["seed_b"], strict=True)
    ]
    assert last["test_error"].tolist() == pytest.approx(expected, abs=1e-12)


def test_tables_are_filtered_as_the_others(tiny: Experiment, root: Path, whole: Any) -> None:
    part = tiny.with_values(density=[0.2, 0.8]).with_seeds(1, 2)
    early = load_results(part, root).early
    assert early[["density", "seed_a", "seed_b", "epoch"]].to_numpy().tolist() == [
        [density, 0, 1, epoch] for density in (0.2, 0.8) for epoch in (1, 3, 4)
    ]
    assert len(whole.with_dense_seeds([0]).early) == len(whole.early)
    assert len(whole.with_dense_seeds([1]).early) == 0


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", with_examples([1, 3], [3]))
def test_a_killed_fleet_loses_nothing(
    after: int, tiny: Experiment, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    save, times = resumable.ResumableTraining.save, []

    def killed(own: resumable.ResumableTraining) -> None:
        save(own)
        if own.job.nets == 12:
            times.append(own.run.epoch)
            if len(times) == after:
                raise Killed

    monkeypatch.setattr(resumable.ResumableTraining, "save", killed)
    with pytest.raises(Killed):
        compute(tiny, tmp_path / "killed")
    measured: list[int] = []
    measure = jobs.measure_pairs

    def counted(*arguments: Any) -> Any:
        measured.append(1)
        return measure(*arguments)

    monkeypatch.setattr(jobs, "measure_pairs", counted)
    assert compute(tiny, tmp_path / "killed")
    assert len(measured) == 1 + sum(epoch > after for epoch in (1, 3, 4))
    assert tables(tiny, tmp_path / "killed") == tables(tiny, root)


def test_a_fleet_that_does_not_fit_keeps_them_as_two(
    tiny: Experiment, tmp_path: Path, whole: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    run_epoch = training.TrainingRun.run_epoch

    def epoch(run: training.TrainingRun) -> None:
        if run.fleet.members == 12 and run.epoch == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        run_epoch(run)

    monkeypatch.setattr(training.TrainingRun, "run_epoch", epoch)
    assert compute(tiny, tmp_path / "halved")
    got = load_results(tiny, tmp_path / "halved")
    assert got.nets["fleet"].nunique() == 2
    places = ["density", "seed_a", "seed_b", "epoch"]
    assert got.early[places].equals(whole.early[places])
    before = whole.early["epoch"] <= 3
    # what was measured before the split is the same to the last bit, in its own place
    assert got.early[before][METRICS].equals(whole.early[before][METRICS])
    assert abs(got.early["test_error"] - whole.early["test_error"]).max() < 0.03


def test_a_missing_table_is_planned_again(tiny: Experiment, tmp_path: Path, root: Path) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    assert make_plan(tiny, tmp_path).jobs == ()
    (shard,) = tmp_path.rglob("early-*")
    shard.unlink()
    (job,) = make_plan(tiny, tmp_path).jobs
    assert shard.name == f"early-{job.fleet}.parquet"


def test_the_plan_and_the_progress_count_every_measuring(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tiny.with_fields({"metrics.hessian": 1}), tmp_path)
    (job,) = plan.retrain
    pairs = 4 * 12 * 3 * MEASURE_FORWARDS
    assert job.cost == pytest.approx(12 * 4 + pairs + job.nets * HESSIAN_EPOCHS)
    progress: list[float] = []
    context = jobs.JobContext(plan.experiment, plan.folder, tmp_path, engine="grouped")
    for part in plan.jobs:
        assert jobs.run_job(part, context, progress.append)
    assert sum(progress) == pytest.approx(plan.cost)


class Clock:
    """A module ``time``: an epoch takes a second, and measuring its estimated cost."""

    now = 0.0

    def time(self) -> float:
        return self.now

    monotonic = time


def test_early_measuring_does_not_start_if_it_would_end_after_the_deadline(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, starts, (job,) = Clock(), [], make_plan(tiny, tmp_path).retrain
    run_epoch, measure = training.TrainingRun.run_epoch, jobs.measure_pairs

    def epoch(run: training.TrainingRun) -> None:
        run_epoch(run)
        clock.now += 1

    def pairs(fleet: Fleet, *rest: Any) -> Any:
        starts.append(clock.now)
        clock.now += job.measuring / job.nets
        return measure(fleet, *rest)

    for module in (jobs, resumable):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(training.TrainingRun, "run_epoch", epoch)
    monkeypatch.setattr(jobs, "measure_pairs", pairs)
    slices = 0
    while not compute(tiny, tmp_path, deadline=clock.now + 6):
        slices += 1
        assert clock.now <= 6 * slices + 1e-9 or slices > 20
        clock.now = 6.0 * slices
        assert slices < 8
    assert len(starts) == 4


def test_the_hessian_is_a_column_of_the_nets(tiny: Experiment, tmp_path: Path) -> None:
    local = tiny.with_fields({"metrics.early": [], "metrics.hessian": 2}).with_values(density=[0.2])
    assert compute(local, tmp_path)
    nets = load_results(local, tmp_path).nets
    for column in ("hessian_trace", "hessian_top"):
        assert nets[column].nunique() == 3
    # one without lies beside it in the same folder
    assert compute(local.with_fields({"metrics.hessian": 0}), tmp_path)
    again = load_results(local, tmp_path).nets
    pd.testing.assert_frame_equal(again, nets)
    blind = load_results(local.with_fields({"metrics.hessian": 0}), tmp_path).nets
    assert "hessian_top" not in blind or blind["hessian_top"].isna().all()
