"""A sweep on a Dask cluster: the same tables after deaths, and errors as one line."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.helpers.comparing import checkpoints, tables
from threeregime._files import PARTIAL_NAME
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.sweep import compute as sweep
from threeregime.sweep import dask_workers, worker_results
from threeregime.sweep.plan import Plan, make_plan

pytestmark = pytest.mark.cluster

FLEET = 2
PATIENCE = 90.0  # seconds, for a busy machine

# A process that imports everything once, which takes the time, and forks schedulers and workers on
# demand, with a checkpoint after every epoch. It kills them when this process ends.
FARM = """
import json, os, signal, sys
import dask
from distributed.cli import dask_scheduler, dask_worker
import torch
from threeregime.data import load_images
from threeregime.kernels import find_compiler
from threeregime.sweep import dask_workers, resumable

resumable.CHECKPOINT_SECONDS = -1.0
torch.set_num_threads(1)
load_images("digits")
find_compiler()
pids = []
for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
        sys.stdin.close()
        os.dup2(2, 1)
        os.chdir(request["folder"])
        dask.config.set(request["config"])
        role = {"scheduler": dask_scheduler, "worker": dask_worker}[request["role"]]
        role.main(request["arguments"])
    pids.append(pid)
    print(pid, flush=True)
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""


class Farm:
    """Starts schedulers and workers on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.files = folder, 0
        self.log = (folder / "log").open("w")
        words = [sys.executable, "-c", FARM]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=self.log, text=True)

    def start(self, role: str, *arguments: str, **config: Any) -> int:
        """Start a scheduler or a worker; return the id of its process."""
        request = {
            "role": role,
            "arguments": arguments,
            "config": config,
            "folder": str(self.folder),
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def scheduler(self, **config: Any) -> tuple[str, int]:
        """Start a scheduler; return the path of its scheduler file, and the id of its process."""
        self.files += 1
        path = self.folder / f"scheduler-{self.files}.json"
        words = f"--host 127.0.0.1 --port 0 --dashboard-address :0 --scheduler-file {path}"
        process = self.start("scheduler", *words.split(), **config)
        wait_for(path.exists)
        return str(path), process

    def worker(self, scheduler: str, threads: int = 1) -> int:
        """Start a worker; return the id of its process."""
        words = f"--scheduler-file {scheduler} --nthreads {threads} --no-nanny --no-dashboard"
        return self.start("worker", *words.split(), "--local-directory", str(self.folder))

    def close(self) -> None:
        """End all of them."""
        self.process.communicate()
        self.log.close()


def wait_for(happened: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    farm = Farm(tmp_path_factory.mktemp("farm"))
    yield farm
    farm.close()


@pytest.fixture(scope="module")
def pair(farm: Farm) -> str:
    """Scheduler file of a cluster with two workers."""
    scheduler, _ = farm.scheduler()
    for _ in range(2):
        farm.worker(scheduler)
    with dask_workers.connect_workers(scheduler) as client:
        client.wait_for_workers(2, timeout=PATIENCE)
    return scheduler


@pytest.fixture
def tiny() -> Experiment:
    """Two dense runs, four fleets of two copies each, on few images, of many short epochs."""
    fields: dict[str, Any] = {
        "data.images": 160,
        "dense.epochs": 3,
        "dense.milestones": [2],
        "retraining.epochs": 14,
        "retraining.milestones": [8],
        "metrics.error_epochs": 3,
        "metrics.points": 3,
    }
    experiment = catalogue.load_experiment("figure_02", "smoke").with_fields(fields)
    return experiment.with_values(epochs=[1, 3], density=[0.2])


def compute(experiment: Experiment, root: Path, dask: str = "", **options: Any) -> bool:
    workers = {} if dask else {"workers": 1}
    options = {"device": "cpu", "fleet": FLEET, **workers, **options}
    return sweep.run_sweep(experiment, root, dask=dask, **options)


def fleets_in_retraining(plan: Plan) -> list[str]:
    """Return the retrainings with a checkpoint and no tables."""
    return [
        job.fleet
        for job in plan.retrain
        if (plan.folder / "state" / f"fleet-{job.fleet}.safetensors").exists()
        and not (plan.folder / f"nets-{job.fleet}.parquet").exists()
    ]


# --- the same tables


@pytest.mark.exhaustive
def test_a_worker_that_is_killed_in_the_middle_of_a_fleet_changes_nothing(
    farm: Farm, tiny: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler, _ = farm.scheduler()
    victim, _ = (farm.worker(scheduler) for _ in range(2))
    root = tmp_path / "cluster"
    plan = make_plan(tiny, root, FLEET)
    killed: list[int] = []

    def kill() -> None:
        """Kill one worker at a moment when each is in the middle of a fleet."""
        while not killed:
            wait_for(lambda: len(fleets_in_retraining(plan)) == 2)
            os.kill(victim, signal.SIGSTOP)  # now it can finish nothing
            if len(fleets_in_retraining(plan)) == 2:
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
            else:
                os.kill(victim, signal.SIGCONT)

    assert len(plan.retrain) == 4
    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert compute(tiny, root, scheduler)
    killer.join()
    assert killed
    assert "worker(s) at" in capsys.readouterr().out
    assert compute(tiny, tmp_path / "here")
    assert tables(tiny, root) == tables(tiny, tmp_path / "here")
    assert checkpoints(root) == checkpoints(tmp_path / "here")
    # Killed while it wrote, the worker left one file, which a later sweep removes.
    left = list(root.rglob(".*"))
    assert len(left) <= 1
    assert all(PARTIAL_NAME.fullmatch(path.name) for path in left)


def test_a_retired_worker_is_not_a_death(farm: Farm, tiny: Experiment, tmp_path: Path) -> None:
    """As after its ``--lifetime``: its fleet moves to another worker, with no death allowed."""
    scheduler, _ = farm.scheduler(**{"distributed.scheduler.allowed-failures": 0})
    for _ in range(2):
        farm.worker(scheduler)
    plan = make_plan(tiny, tmp_path, FLEET)

    def retire() -> None:
        with dask_workers.connect_workers(scheduler) as client:
            client.wait_for_workers(2)
            wait_for(lambda: len(fleets_in_retraining(plan)) == 2)
            client.retire_workers([next(iter(client.nthreads()))])

    retiring = threading.Thread(target=retire, daemon=True)
    retiring.start()
    assert compute(tiny, tmp_path, scheduler)
    retiring.join()


def test_a_time_budget_holds_on_a_cluster(pair: str, tiny: Experiment, tmp_path: Path) -> None:
    long = tiny.with_fields({"retraining.epochs": 30_000})  # hours
    begin = time.time()
    assert not compute(long, tmp_path, pair, deadline=begin + 6)
    assert time.time() - begin < PATIENCE
    assert make_plan(long, tmp_path, FLEET).retrain


def test_a_relative_folder_is_relative_to_the_client(
    pair: str, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = tiny.with_values(epochs=[1], density=[0.2]).with_seeds(1, 2)
    assert compute(one, Path("here"), pair)
    assert list((tmp_path / "here").rglob("nets-*.parquet"))


def test_an_interrupt_ends_what_the_workers_do(
    pair: str, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both workers are free at once, though their fleets would take minutes."""
    long = tiny.with_fields({"retraining.epochs": 30000})
    plan = make_plan(long, tmp_path, FLEET)

    def interrupt() -> None:
        wait_for(lambda: len(fleets_in_retraining(plan)) == 2)
        signal.raise_signal(signal.SIGINT)

    # Where the tests run in the background of a script, interrupts are ignored from the start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        compute(long, tmp_path, pair)
    signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.rglob(".run-*"))
    with dask_workers.connect_workers(pair) as client:
        free = [client.submit(os.getpid, workers=[one], pure=False) for one in client.nthreads()]
        assert len({future.result(timeout=PATIENCE) for future in free}) == 2
    assert len(fleets_in_retraining(plan)) == 2


# --- one line


def line(compute: Callable[[], Any]) -> str:
    with pytest.raises(ThreeRegimeError) as caught:
        compute()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def listening() -> list[str]:
    """Return the addresses at which this process and its children listen."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [
        str(connection.laddr.ip)
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]


def test_local_workers_print_no_traceback_of_dask() -> None:
    """Jobs that fail are reported by their futures; what is logged is of connections that close."""

    def levels() -> list[int]:
        names = ("distributed", "distributed.client", "tornado.application", "asyncio")
        return [logging.getLogger(name).level for name in names]

    with dask_workers.local_workers(1) as client:
        (found,) = client.run(levels).values()
    assert set(found) == {logging.CRITICAL}


def test_local_workers_listen_to_this_machine_alone() -> None:
    """Their dashboard and their scheduler do too: whoever reaches one could run code."""
    before = set(listening())
    with dask_workers.local_workers(1) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        assert set(listening()) - before <= {"127.0.0.1"}
        assert client.scheduler_info()["address"].split("://")[1].startswith("127.0.0.1:")


def test_local_workers_accept_nobody_without_their_certificate() -> None:
    pytest.importorskip("cryptography")
    from distributed import Client

    with dask_workers.local_workers(1) as client:
        address = client.scheduler_info()["address"]
        assert address.startswith("tls://")
        with pytest.raises((OSError, TypeError)):
            Client(address.replace("tls", "tcp"), timeout=2, set_as_default=False)


def test_no_scheduler(tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_workers, "SCHEDULER_SECONDS", 0.5)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        error = line(lambda: compute(tiny, tmp_path, address))
    assert error.startswith(f"no Dask scheduler answers at {address}: start one")
    for address in ("no/such/file.json", "ftp://127.0.0.1:1", "127.0.0.1"):
        assert address in line(partial(compute, tiny, tmp_path, address))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["{}", "[1]", '{"a', "5", "[" * 100_000])
def test_a_file_that_is_no_scheduler_file(content: str, tiny: Experiment, tmp_path: Path) -> None:
    file = tmp_path / "scheduler.json"
    file.write_text(content)
    assert f"no Dask scheduler answers at {file}" in line(
        lambda: compute(tiny, tmp_path, str(file))
    )


def test_no_workers(
    farm: Farm,
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scheduler, _ = farm.scheduler()
    monkeypatch.setattr(dask_workers, "WORKER_SECONDS", 0.2)
    assert "no worker came to" in line(lambda: compute(tiny, tmp_path, scheduler))
    assert f"waiting for workers at {scheduler}" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_machine_too_busy_to_start_dask(
    tiny: Experiment, tmp_path: Path, monkeypatch: Any
) -> None:
    import distributed

    starts = []

    def starve(*_: Any, **__: Any) -> None:
        starts.append(1)
        assert None is not None

    monkeypatch.setattr(distributed, "Client", starve)
    assert "too busy" in line(lambda: compute(tiny, tmp_path, "tcp://127.0.0.1:1"))
    assert len(starts) == dask_workers.START_ATTEMPTS


def test_a_folder_that_is_not_shared(pair: str, tiny: Experiment, tmp_path: Path) -> None:
    """Below /proc/self/cwd every process sees another folder."""
    if not Path("/proc/self/cwd").exists():
        pytest.skip("there is no /proc")
    name = f"not-shared-{os.getpid()}"
    try:
        error = line(lambda: compute(tiny, Path("/proc/self/cwd") / name, pair))
    finally:
        for path in sorted(Path(name).rglob("*"), reverse=True):
            path.rmdir()
        Path(name).rmdir()
    assert "does not see /proc/self/cwd/" in error
    assert "give an --out on storage that all machines share" in error


def test_other_code(
    pair: str, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = dask_workers.code_version()
    expected = f"runs threeregime {version}, not 9.9 (fedcba) as here: install the same"
    monkeypatch.setattr(dask_workers, "code_version", lambda: "9.9 (fedcba)")
    assert expected in line(lambda: compute(tiny, tmp_path, pair))
    assert not list(tmp_path.rglob("*.*"))


def test_no_such_device(pair: str, tiny: Experiment, tmp_path: Path) -> None:
    error = line(lambda: compute(tiny, tmp_path, pair, device="cuda:99"))
    assert error.startswith("device = 'cuda:99' is not at the worker tcp://127.0.0.1:")
    assert error.endswith("use --device cpu, or workers that have it")


def test_a_worker_of_many_threads(farm: Farm, tiny: Experiment, tmp_path: Path) -> None:
    scheduler, _ = farm.scheduler()
    farm.worker(scheduler, threads=2)
    assert "start it with --nthreads 1" in line(lambda: compute(tiny, tmp_path, scheduler))


def test_a_job_that_fails_on_a_worker(pair: str, tiny: Experiment, tmp_path: Path) -> None:
    """A ThreeRegimeError is raised unchanged; another one is named."""
    pictures = tiny.with_fields({"data.name": "folder:no/such"})
    assert "no/such/train is missing" in line(lambda: compute(pictures, tmp_path, pair))
    plan = make_plan(tiny, tmp_path, FLEET)
    (plan.folder / "state").mkdir(parents=True, exist_ok=True)
    damaged = plan.folder / "state" / f"fleet-{plan.dense[0].fleet}.safetensors"
    damaged.write_bytes(b"junk")
    (damaged.parent / f"{damaged.name}.broken").mkdir()  # in the way of setting it aside
    error = line(lambda: compute(tiny, tmp_path, pair))
    assert "a fleet failed (IsADirectoryError: " in error
    assert "; what is finished is kept, run it again to go on" in error


def kill_in_retraining(victim: int, plan: Plan) -> None:
    """Kill a process as soon as a fleet of a plan is retrained."""

    def kill() -> None:
        wait_for(lambda: fleets_in_retraining(plan))
        os.kill(victim, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()


def test_a_fleet_whose_workers_die(farm: Farm, tiny: Experiment, tmp_path: Path) -> None:
    scheduler, _ = farm.scheduler(**{"distributed.scheduler.allowed-failures": 0})
    victim = farm.worker(scheduler)

    plan = make_plan(tiny, tmp_path, FLEET)

    kill_in_retraining(victim, plan)
    error = line(lambda: compute(tiny, tmp_path, scheduler))
    assert "the worker died 1 time(s) running over the same fleet" in error
    assert "(--fleet); what is finished is kept, run it again to go on" in error


def test_a_scheduler_that_dies(farm: Farm, tiny: Experiment, tmp_path: Path) -> None:
    scheduler, victim = farm.scheduler()
    farm.worker(scheduler)
    plan = make_plan(tiny, tmp_path, FLEET)

    kill_in_retraining(victim, plan)
    assert "the scheduler is gone" in line(lambda: compute(tiny, tmp_path, scheduler))


def lose_workers(monkeypatch: pytest.MonkeyPatch, absence: float) -> None:
    """Look for workers all the time, and wait this long for them."""
    monkeypatch.setattr(worker_results, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(worker_results, "NOTICE_SECONDS", 0.1)
    monkeypatch.setattr(worker_results, "ABSENCE_SECONDS", absence)


@pytest.mark.exhaustive
def test_a_cluster_that_all_workers_leave(
    farm: Farm,
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sweep says so, waits for a while, and ends; the same command goes on."""
    lose_workers(monkeypatch, absence=1.0)
    scheduler, _ = farm.scheduler()
    plan, victim = make_plan(tiny, tmp_path, FLEET), farm.worker(scheduler)

    kill_in_retraining(victim, plan)
    error = line(lambda: compute(tiny, tmp_path, scheduler))
    assert error.startswith("all workers are gone, and none came back in 1 s: start some with ")
    assert error.endswith("--nthreads 1`; what is finished is kept, run it again to go on")
    said = [text for text in capsys.readouterr().err.splitlines() if "all workers" in text]
    assert len(said) == 1
    assert "all workers are gone; waiting 1 s for one: start some with `dask worker" in said[0]
    farm.worker(scheduler)
    assert compute(tiny, tmp_path, scheduler)


@pytest.mark.exhaustive
def test_a_worker_that_comes_back_in_time_goes_on(
    farm: Farm,
    tiny: Experiment,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lose_workers(monkeypatch, absence=PATIENCE)
    scheduler, _ = farm.scheduler()
    root = tmp_path / "cluster"
    plan, victim, told = make_plan(tiny, root, FLEET), farm.worker(scheduler), threading.Event()
    print_line = worker_results._print

    def print_and_tell(text: str) -> None:
        print_line(text)
        told.set()

    def replace() -> None:
        wait_for(lambda: fleets_in_retraining(plan))
        os.kill(victim, signal.SIGKILL)
        told.wait(PATIENCE)
        farm.worker(scheduler)

    monkeypatch.setattr(worker_results, "_print", print_and_tell)
    threading.Thread(target=replace, daemon=True).start()
    assert compute(tiny, root, scheduler)
    assert "threeregime: a worker is there: going on" in capsys.readouterr().err
    assert compute(tiny, tmp_path / "here")
    assert tables(tiny, root) == tables(tiny, tmp_path / "here")


def test_a_question_to_a_cluster_that_all_workers_leave(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the memory and the cost of a plan, before it runs."""
    lose_workers(monkeypatch, absence=0.5)
    scheduler, _ = farm.scheduler()
    farm.worker(scheduler)
    with dask_workers.connect_workers(scheduler) as client:
        error = line(lambda: dask_workers.run_on_worker(client, os._exit, 1))
    assert "all workers are gone" in error


def test_local_workers_that_the_system_kills_start_again_and_say_it_if_they_keep_dying() -> None:
    import dask

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        dask_workers.local_workers(1) as client,
    ):
        error = line(lambda: dask_workers.run_on_worker(client, os._exit, 9))
        assert "the worker died 2 time(s) running over the same fleet" in error
        assert dask_workers.run_on_worker(client, sum, [1, 2]) == 3


class Answers:
    """A client whose workers return fixed answers."""

    def __init__(self, *answers: Any) -> None:
        self.answers = {f"tcp://10.0.0.{i}:1": answer for i, answer in enumerate(answers)}

    def run(self, function: Callable[..., Any], *arguments: Any, on_error: str) -> dict[str, Any]:
        return self.answers


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (("cuda", "cpu"), "some workers have a GPU and some have none: say --device cpu"),
        ((ModuleNotFoundError("No module named 'threeregime'"),), "10.0.0.0:1 has no threeregime"),
        (("cpu", AttributeError("check")), "10.0.0.1:1 has no threeregime, or another one"),
        ((OSError("closed"),), "10.0.0.0:1 does not answer (OSError: closed)"),
        ((), "all workers are gone: start some"),
    ],
)
def test_answers_of_workers(
    answers: tuple[Any, ...], words: str, tiny: Experiment, tmp_path: Path
) -> None:
    plan = make_plan(tiny, tmp_path, FLEET)
    context = sweep.JobContext(tiny, plan.folder, tmp_path, device="auto")

    def check() -> None:
        with dask_workers.checked_workers(Answers(*answers), context):
            pass

    assert words in line(check)
    assert not list(tmp_path.rglob(".*"))


def test_a_wrong_clock() -> None:
    dask_workers._check_clock("tcp://10.0.0.1:1", 1000.0, 998.0, 1003.0)
    error = line(lambda: dask_workers._check_clock("tcp://10.0.0.1:1", 1100.0, 998.0, 1003.0))
    assert "clock of the worker tcp://10.0.0.1:1 is 97 s off" in error


def test_repeated_progress_is_ignored() -> None:
    progress: list[float] = []
    handler = dask_workers._progress_handler(progress.append)
    for event in (("a", 2.0), ("b", 1.0), ("a", 5.0), ("a", 3.0), ("a", 6.0)):
        handler((0.0, event))
    assert progress == [2.0, 1.0, 3.0, 1.0]
