"""A sweep can be stopped at any moment: its tables are the same to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.helpers.comparing import checkpoints, tables
from threeregime import cli
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.metrics import pairs as metrics
from threeregime.sweep import compute as sweep
from threeregime.sweep import jobs, resumable
from threeregime.sweep.plan import MEASURE_FORWARDS, JobContext, make_plan
from threeregime.training import run as training

FLEET = 8  # as the fixture ``smoke``

# The command line in a process of its own, with a checkpoint after every epoch. A thread kills the
# process (by SIGKILL, which allows no cleanup) after some seconds of processor time, counted from
# the first fleet, whether it runs Python or a kernel, computes or writes.
KILLED = """
import os, signal, sys, threading, time
from threeregime.cli import main
from threeregime.sweep import compute, resumable

resumable.CHECKPOINT_SECONDS = -1.0
after = float(sys.argv.pop(1))
execute = compute._run_with_bar

def watch(end):
    while time.process_time() < end:
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)

def watched(*arguments):
    start = time.process_time()
    if after:
        threading.Thread(target=watch, args=(start + after,), daemon=True).start()
    return execute(*arguments)

compute._run_with_bar = watched
main()
"""


def command(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, as a user would at a terminal."""
    words = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture
def experiment() -> Experiment:
    return catalogue.load_experiment("figure_02", "smoke")


@pytest.fixture
def tiny() -> Experiment:
    """Two stops of two dense runs, two copies of each, on few images: one fleet of each kind."""
    experiment = catalogue.load_experiment("figure_02", "smoke")
    fields: dict[str, Any] = {
        "data.images": 160,
        "dense.epochs": 3,
        "dense.milestones": [2],
        # error epochs of one and of two digits: their order as text is not their order in time
        "retraining.epochs": 10,
        "retraining.milestones": [6],
        "metrics.error_epochs": 3,
        "metrics.points": 3,
    }
    return experiment.with_fields(fields).with_values(epochs=[1, 3], density=[0.2])


def compute(experiment: Experiment, root: Path, deadline: float | None = None) -> bool:
    return sweep.run_sweep(
        experiment, root, device="cpu", workers=1, fleet=FLEET, deadline=deadline
    )


# --- killed


@pytest.mark.exhaustive
@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_gives_the_same_tables(
    experiment: Experiment, smoke_run: tuple[Path, float], tmp_path: Path
) -> None:
    whole, work = smoke_run
    words = "sweep figure_02 --scale smoke --device cpu --workers 1 --fleet"
    sweep = (*words.split(), str(FLEET), "--out", str(tmp_path))
    moments, kills = random.Random(1), 0
    for _ in range(2):
        after = moments.uniform(0.05, 0.35) * work
        done = command(KILLED, str(after), *sweep)
        if done.returncode != 0:
            assert done.returncode == -signal.SIGKILL, done.stderr
            kills += 1
    assert kills == 2
    last = command(KILLED, "0", *sweep)
    assert last.returncode == 0, last.stderr
    assert tables(experiment, tmp_path) == tables(experiment, whole)
    assert checkpoints(tmp_path) == checkpoints(whole)


class Killed(BaseException):
    """Ends a run the moment after a file was put in context."""


def stop_after(writes: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """End the run after a number of files; return the list of their names."""
    os_replace, written = os.replace, []

    def replace(source: Path, target: Path) -> None:
        os_replace(source, target)
        written.append(Path(target).name)
        if len(written) == writes:
            raise Killed

    monkeypatch.setattr(os, "replace", replace)
    return written


@pytest.mark.slow
def test_a_sweep_killed_after_any_of_its_files_gives_the_same_tables(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kill it between any two files, except in the middle of retraining."""
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(sweep.cost, "plan_seconds", lambda *_: (1.0, 0.01))  # no trial every time
    with monkeypatch.context() as patch:
        written = stop_after(0, patch)
        assert compute(tiny, tmp_path / "whole")
    expected, starts = tables(tiny, tmp_path / "whole"), checkpoints(tmp_path / "whole")
    # 3 dense epochs, 2 stops of 2 seeds, a table; 10 epochs and the end of retraining, 2 tables
    assert len(written) == 3 + 4 + 1 + 11 + 2
    for writes in (*range(1, 10), *range(17, 22)):
        root = tmp_path / str(writes)
        with monkeypatch.context() as patch:
            stop_after(writes, patch)
            with pytest.raises(Killed):
                compute(tiny, root)
        if writes < len(written):
            assert make_plan(tiny, root, FLEET).jobs
        assert compute(tiny, root)
        assert tables(tiny, root) == expected, f"killed after {written[writes - 1]}"
        assert checkpoints(root) == starts


def test_a_killed_sweep_goes_on_from_its_last_checkpoint(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the work of one fleet after its checkpoint is lost."""
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    epochs: list[int] = []
    run_epoch = training.TrainingRun.run_epoch

    def counted(run: training.TrainingRun) -> None:
        run_epoch(run)
        epochs.append(run.epoch)

    monkeypatch.setattr(training.TrainingRun, "run_epoch", counted)
    with monkeypatch.context() as patch:
        stop_after(3 + 4 + 1 + 7, patch)
        with pytest.raises(Killed):
            compute(tiny, tmp_path)
    assert epochs == [*range(1, 4), *range(1, 8)]
    epochs.clear()
    assert compute(tiny, tmp_path)
    assert epochs == [8, 9, 10]


def test_partial_files_of_a_killed_write_are_ignored(tiny: Experiment, tmp_path: Path) -> None:
    """A process that dies while writing leaves a partial file under a temporary name."""
    compute(tiny, tmp_path / "whole")
    at = tmp_path / "killed" / "figure_02" / "smoke"
    (at / "state").mkdir(parents=True)
    for path in (tmp_path / "whole" / "figure_02" / "smoke").rglob("*-*"):
        half = path.read_bytes()[: path.stat().st_size // 2]
        folder = at / "state" if path.parent.name == "state" else at
        (folder / f".{path.name}.12345").write_bytes(half)
    assert compute(tiny, tmp_path / "killed")
    assert tables(tiny, tmp_path / "killed") == tables(tiny, tmp_path / "whole")


# --- stopped in time


class Clock:
    """A module ``time`` in which time passes only with work."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    monotonic = time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """An epoch takes a second, and measuring as long as its estimated cost."""
    clock = Clock()
    run_epoch = training.TrainingRun.run_epoch
    measure_pairs: Callable[..., Any] = metrics.measure_pairs

    def epoch(run: training.TrainingRun) -> None:
        run_epoch(run)
        clock.now += 1

    def pairs(fleet: Any, members: Any, data: Any, points: int, samples: int) -> Any:
        clock.now += len(members) / fleet.members * points * MEASURE_FORWARDS
        return measure_pairs(fleet, members, data, points, samples)

    monkeypatch.setattr(jobs, "time", clock)
    monkeypatch.setattr(resumable, "time", clock)
    monkeypatch.setattr(training.TrainingRun, "run_epoch", epoch)
    monkeypatch.setattr(jobs, "measure_pairs", pairs)
    return clock


@pytest.mark.parametrize("slice_", [2, 5])
def test_a_time_budget_in_slices_gives_the_same_tables(
    slice_: int, tiny: Experiment, tmp_path: Path, clock: Clock
) -> None:
    assert compute(tiny, tmp_path / "whole")
    assert clock.now == pytest.approx(3 + 10 + 4 / 8 * 3 * 2 / 3)
    slices = 0
    for _ in range(100):
        slices += 1
        before, deadline = clock.now, clock.now + slice_
        done = compute(tiny, tmp_path / "sliced", deadline)
        assert clock.now <= deadline
        if done:
            break
        assert clock.now > before, "a slice in which nothing was done"
    assert slices == {2: 13, 5: 4}[slice_]
    assert tables(tiny, tmp_path / "sliced") == tables(tiny, tmp_path / "whole")
    assert checkpoints(tmp_path / "sliced") == checkpoints(tmp_path / "whole")


def test_nothing_starts_after_the_deadline(tiny: Experiment, tmp_path: Path) -> None:
    assert not compute(tiny, tmp_path, deadline=time.time() - 1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("expected", "starts"), [(4.0, False), (3.0, True)])
def test_a_first_epoch_that_would_overrun_does_not_start(
    expected: float, starts: bool, tiny: Experiment, tmp_path: Path, clock: Clock
) -> None:
    """The first epoch is assumed to take as long as a trial of a few steps predicts."""
    plan = make_plan(tiny, tmp_path, FLEET)
    context = JobContext(tiny, plan.folder, tmp_path, deadline=5.0, epoch_seconds=expected)
    assert not jobs.run_job(plan.jobs[0], context)
    assert (clock.now > 0) == starts


@pytest.mark.slow
def test_the_command_stops_inside_its_budget_with_half_trained_fleets_saved(
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A dense run of very many, very short epochs."""
    words = "sweep figure_02 --scale clutter --only epochs=5000,density=0.05 --seeds 1x2"
    words += " --set data.name=digits --set net.width=0.25"
    words += " --set dense.epochs=5000 --set data.images=160 --device cpu --time-budget"
    # Libraries that are imported on first use take seconds, which are not part of this budget.
    sweep.run_sweep(tiny, tmp_path / "dry run", device="cpu", workers=1, dry_run=True)
    monkeypatch.setattr(cli, "ENDING_SECONDS", 2.0)
    left, budget = [0], 4.0
    while len(set(left)) < 3:  # a busy machine may end no epoch in its first budgets
        assert budget < 60
        begin = time.time()
        monkeypatch.setattr(cli, "START", begin)  # as if the process began now
        argv = ["threeregime", *words.split(), f"{budget}s", "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert not caught.value.code
        assert time.time() - begin < budget
        assert "stopped in time with all saved, 1 fleets left" in capsys.readouterr().out
        (saved,) = (tmp_path / "figure_02" / "clutter" / "state").glob("fleet-*")
        left.append(int(load_file(saved)["epoch"]))
        budget *= 1.2
    assert sorted(left) == left  # each call went on where the one before stopped
    assert left[-1] < 5000


# --- spread over processes


@pytest.mark.cluster
def test_two_workers_give_the_same_tables_as_one_process(
    experiment: Experiment, smoke: Path, tmp_path: Path
) -> None:
    code = "from threeregime.cli import main; main()"
    words = "sweep figure_02 --scale smoke --device cpu --workers 2 --fleet"
    done = command(code, *words.split(), str(FLEET), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "in 2 process(es)" in done.stdout
    assert "Traceback" not in done.stderr
    assert tables(experiment, tmp_path) == tables(experiment, smoke)
    assert checkpoints(tmp_path) == checkpoints(smoke)


def test_a_budget_too_short_for_an_epoch_prints_a_warning(
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Otherwise the same command would be repeated without progress."""
    monkeypatch.setattr(sweep.cost, "plan_seconds", lambda *_: (1000.0, 100.0))
    assert not compute(tiny, tmp_path, deadline=time.time() + 30)
    assert "too short a budget to begin an epoch: give 2 min more" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.parquet"))
