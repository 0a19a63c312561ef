"""Two sweeps in one folder: no net is computed twice, and the tables are those of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import kills
from tests.helpers.comparing import tables
from threeregime._files import claims
from threeregime._paths import ROOT
from threeregime.experiments import Experiment
from threeregime.results import load_results, read_shard
from threeregime.sweep import (
    JobContext,
    jobs,
    make_plan,
    resumable,
    run_job,
    run_sweep,
    state_folder,
)


@pytest.fixture
def small() -> Experiment:
    return kills.small_experiment(dense_seeds=1, retraining_epochs=2)


def sweep(experiment: Experiment, root: Path, fleet: int) -> bool:
    return run_sweep(experiment, root, device="cpu", workers=1, fleet=fleet, engine="planned")


SWEEP = """
import sys
from pathlib import Path
from tests.helpers.kills import small_experiment
from threeregime.sweep import jobs, run_sweep
jobs.WAITING_SECONDS = 0.01
small, options = small_experiment(dense_seeds=1, retraining_epochs=2), {"engine": "planned"}
run_sweep(small, Path(sys.argv[1]), device="cpu", workers=1, fleet=int(sys.argv[2]), **options)
"""


def test_sweeps_with_fleets_of_other_sizes_share_the_work(
    small: Experiment, tmp_path: Path
) -> None:
    sweep(small, tmp_path / "one", 4)
    # Processes, as for users: threads would share the global random state that nets are drawn from.
    command = [sys.executable, "-c", SWEEP, str(tmp_path / "two")]
    running = [subprocess.Popen([*command, str(fleet)], cwd=ROOT) for fleet in (4, 6)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    at = tmp_path / "two" / "figure_02" / "smoke"
    nets = sum(len(read_shard(path)[0]) for path in at.glob("nets-*.parquet"))
    assert nets == 12  # each once
    assert len(list(at.glob("dense-*.parquet"))) == 1
    assert not list(state_folder(at).glob("claim-*"))
    first, second = (tables(small, tmp_path / name) for name in ("one", "two"))
    for kind in first:
        assert without_fleets(second[kind]) == without_fleets(first[kind])


def without_fleets(rows: list[list[str]]) -> list[list[str]]:
    column = rows[0].index("fleet") if rows[0] else None
    return [[v for i, v in enumerate(row) if i != column] for row in rows]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_kills_and_pairs_of_processes_change_nothing() -> None:
    """A few of those that ``tests/helpers/kills.py`` counts, with fleets of drawn sizes."""
    words = [sys.executable, "-m", "tests.helpers.kills", "--kills", "4", "--pairs", "1"]
    counts = json.loads(subprocess.check_output(words, cwd=ROOT, text=True))
    assert counts.pop("folders") >= 2
    assert (counts.pop("kills"), counts.pop("pairs")) == (4, 1)
    assert not any(counts.values()), counts


def test_a_fleet_that_another_process_computes_is_waited_for(
    small: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It comes last, and what the other one has finished is not computed again."""
    monkeypatch.setattr(jobs, "WAITING_SECONDS", 0.01)
    plan = make_plan(small, tmp_path, 4)
    context = JobContext(small, plan.folder, tmp_path, engine="planned")
    (dense,), (first, *_) = plan.dense, plan.retrain
    assert run_job(dense, context)
    other = claims(first.claims(plan.folder))
    other.__enter__()
    ran: list[str] = []
    run, told = jobs._run, threading.Event()

    def counted(job: Any, *arguments: Any) -> bool:
        ran.append(job.fleet)
        return run(job, *arguments)

    monkeypatch.setattr(jobs, "_run", counted)

    def sweep_to_the_end() -> None:
        if sweep(small, tmp_path, 4):
            told.set()

    thread = threading.Thread(target=sweep_to_the_end)
    thread.start()
    while len(ran) < 2 or "waiting for" not in capsys.readouterr().err:
        assert thread.is_alive()
        time.sleep(0.01)  # a loop without a pause keeps the interpreter from the thread
    assert set(ran) == {job.fleet for job in plan.retrain[1:]}
    assert run(first, context, lambda cost: None)  # as the other process does
    other.__exit__(None, None, None)
    thread.join()
    assert told.is_set()
    assert len(ran) == 2
    assert len(load_results(small, tmp_path).nets) == 12


def test_the_deadline_ends_waiting(small: Experiment, tmp_path: Path) -> None:
    plan = make_plan(small, tmp_path, 4)
    context = JobContext(small, plan.folder, tmp_path, deadline=0.0)
    with claims(plan.dense[0].claims(plan.folder)):
        assert not run_job(plan.dense[0], context)


def test_the_next_sweep_removes_what_killed_ones_left(small: Experiment, tmp_path: Path) -> None:
    sweep(small, tmp_path, 4)
    at = tmp_path / "figure_02" / "smoke"
    state = state_folder(at)
    before = sorted(at.rglob("*"))
    plan = make_plan(small, tmp_path / "none", 4)
    for job in plan.jobs:  # as if killed between its tables and the end
        path = resumable.fleet_checkpoint(at, job)
        resumable.write_checkpoint(path, job, {})
    (state / "claim-0123456789ab").touch()
    os.utime(state / "claim-0123456789ab", (0, 0))
    (state / ".run-0123").touch()
    os.utime(state / ".run-0123", (0, 0))
    (at / ".nets-1.parquet.host-12").touch()
    os.utime(at / ".nets-1.parquet.host-12", (0, 0))
    assert len(list(at.rglob("*"))) > len(before)
    assert sweep(small, tmp_path, 4)
    assert sorted(at.rglob("*")) == before
