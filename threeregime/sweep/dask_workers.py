"""Dask workers on one machine or many: connect to them, check them, and run jobs on them.

A worker trains one fleet at a time and writes into the results folder, which client and workers
share. Over the network go only jobs, their progress, and whether they are finished.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from threeregime._files import claims
from threeregime._version import version
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import resolve_device
from threeregime.results.provenance import commit
from threeregime.sweep.jobs import run_job
from threeregime.sweep.plan import Job, JobContext, Plan, RetrainJob, state_folder
from threeregime.sweep.resumable import Progress
from threeregime.sweep.worker_results import (
    error_line,
    finished_futures,
    resumable_error,
    task_result,
)

SCHEDULER_SECONDS = 10.0
"""Seconds to wait for a scheduler to answer."""
WORKER_SECONDS = 60.0
"""Seconds to wait for the first worker."""
LOOPBACK = "127.0.0.1"
START_ATTEMPTS = 3
"""Number of attempts to start Dask on a busy machine."""
GRACE_SECONDS = 2.0
"""Seconds to wait for workers after the deadline."""
PROGRESS_SECONDS = 1.0
"""Shortest time between two progress events of a worker."""
RUN_TOKEN = ".run-"
"""Beginning of the name of the file by which workers show that they see the results folder."""
CLOCK_SECONDS = 5.0
"""How far a worker's clock may be off if there is a deadline."""


# --- connecting to workers


def is_dask_installed() -> bool:
    """Return whether Dask is installed; it comes with the extra ``dask``."""
    return importlib.util.find_spec("distributed") is not None


@contextmanager
def local_workers(workers: int) -> Iterator[Any]:
    """Start workers in processes of this machine; yield their client.

    They listen on the loopback interface alone and, where the library ``cryptography`` is, accept
    nobody without the certificate of this call: other users of the machine cannot give them jobs.
    """
    from distributed import Client, LocalCluster

    _silence_dask()
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            security=bool(importlib.util.find_spec("cryptography")) or None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_silencer())
        yield client


def _silencer() -> Any:
    """Return a plugin that silences workers until their processes end.

    Dask's own option holds until a worker closes; a connection that closes before it is logged with
    a traceback.
    """
    from distributed import WorkerPlugin

    class Silencer(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            _silence_dask("asyncio")

    return Silencer()


@contextmanager
def connect_workers(address: str) -> Iterator[Any]:
    """Connect to a running cluster; yield a client once there is a worker.

    Args:
        address: of the scheduler, e.g. ``tcp://host:8786``, or the path of its scheduler file.

    Raises:
        ThreeRegimeError: no Dask, no scheduler, no worker arrives, or the scheduler disappears.
    """
    if not is_dask_installed():
        raise ThreeRegimeError("a Dask cluster needs Dask: pip install 'threeregime[dask]'")
    from distributed.comm import CommClosedError

    _silence_dask()
    try:
        file = Path(address)
        is_file = file.is_file()
        scheduler = str(json.loads(file.read_text("utf-8"))["address"]) if is_file else address
        client = _open_client(scheduler)
    except ThreeRegimeError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise ThreeRegimeError(
            f"no Dask scheduler answers at {address}: start one with `dask scheduler`, "
            "and give the address that it prints, or its scheduler file"
        ) from None
    with client:
        if not client.nthreads():
            print(f"waiting for workers at {address}", flush=True)
        try:
            client.wait_for_workers(1, timeout=WORKER_SECONDS)
        except TimeoutError:
            raise ThreeRegimeError(
                f"no worker came to {address} in {WORKER_SECONDS:.0f} s: "
                "start some with `dask worker ADDRESS --nthreads 1`, or see why they wait"
            ) from None
        try:
            yield client
        except CommClosedError as error:
            raise resumable_error(f"the scheduler at {address} is gone") from error


def _open_client(scheduler: str) -> Any:
    """Return a client of a scheduler.

    Raises:
        OSError: no scheduler answers there.
        ThreeRegimeError: the machine is too busy to start Dask.
    """
    from distributed import Client

    for _ in range(START_ATTEMPTS):
        # A client that failed to start is closed when it is collected. Were that while another one
        # starts, both would wait for the same lock for ever.
        gc.collect()
        try:
            return Client(scheduler, timeout=SCHEDULER_SECONDS, set_as_default=False)
        except AssertionError:
            # Dask gives the thread of its event loop ten seconds to start, and asserts that it did.
            continue
    raise ThreeRegimeError("Dask does not start: this machine is too busy, try again later")


def _silence_dask(*more: str) -> None:
    """Turn off Dask's logging in this process, and more loggers: users get errors as one line."""
    for name in ("distributed", "distributed.client", "tornado.application", *more):
        logging.getLogger(name).setLevel(logging.CRITICAL)


# --- running jobs on workers


def run_on_worker(client: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on any one worker; return its result.

    Raises:
        ThreeRegimeError: it failed, or no worker is left.
    """
    from distributed import as_completed

    future = client.submit(function, *arguments, pure=False)
    (finished,) = finished_futures(client, as_completed([future], loop=client.loop))
    return task_result(finished)


def run_plan(
    client: Any,
    plan: Plan,
    context: JobContext,
    requirements: WorkerRequirements,
    progress: Progress,
) -> Iterator[Job]:
    """Run a plan, each retraining after its dense runs; yield the finished jobs.

    If a worker dies, the scheduler gives its fleet to another one, which resumes from the last
    checkpoint. When the client closes or disconnects, running jobs stop at their next epoch.

    Args:
        client, requirements: of checked workers.
        plan: the jobs.
        context: folder, device and deadline.
        progress: called from another thread; work that is repeated does not count twice.

    Raises:
        ThreeRegimeError: a job failed, its workers keep dying, or the workers or the scheduler are
            gone.
    """
    from distributed import as_completed

    client.subscribe_topic(requirements.topic, _progress_handler(progress))
    timeout = None
    if context.deadline is not None:
        timeout = max(0.0, context.deadline - time.time()) + GRACE_SECONDS
    futures = as_completed(loop=client.loop)
    jobs: dict[str, Job] = {}

    def submit(job: Job) -> None:
        key = f"{type(job).__name__}-{job.fleet}-{requirements.topic}"
        priority = -plan.jobs.index(job)
        jobs[key] = job
        futures.add(
            client.submit(_run_task, job, context, requirements, key=key, priority=priority)
        )

    # Dask's own dependencies would tie retrainings to the one worker that holds the result of the
    # dense run, and blame all of them for its death: submit a retraining when it can start.
    dependencies = {job: _dense_jobs_of(job, plan) for job in plan.retrain}
    for dense_job in plan.dense:
        submit(dense_job)
    for job, dense in dependencies.items():
        if not dense:
            submit(job)
    for future in finished_futures(client, futures, timeout):
        finished = jobs[future.key]
        if not task_result(future):
            continue
        yield finished
        for job, dense in dependencies.items():
            if finished in dense:
                dense.discard(finished)
                if not dense:
                    submit(job)


def _dense_jobs_of(job: RetrainJob, plan: Plan) -> set[Job]:
    """Return the dense jobs of a plan that a retraining starts from."""
    runs = {(unit.protocol.dense_hash, unit.dense_seed) for unit in job.units}
    return {
        dense
        for dense in plan.dense
        if any((dense.protocol.dense_hash, seed) in runs for seed in dense.seeds)
    }


def _progress_handler(progress: Progress) -> Callable[[Any], None]:
    """Return a handler of progress events that ignores work repeated after a worker's death."""
    reported: dict[str, float] = {}

    def handle(event: Any) -> None:
        _, (key, total) = event
        increase = total - reported.get(key, 0.0)
        if increase > 0:
            reported[key] = total
            progress(increase)

    return handle


def _run_task(job: Job, context: JobContext, requirements: WorkerRequirements) -> bool:
    """Run a job on a worker; stop if the scheduler has taken the job away from it."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    check_worker(requirements, worker)
    key = worker.get_current_task()
    total, event_time = 0.0, time.monotonic()

    def progress(cost: float) -> None:
        nonlocal total, event_time
        # A thread cannot be stopped from outside. Without this check, a cancelled task, or one
        # whose worker is closing, would run on, perhaps beside its replacement.
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing" or worker.status.name.startswith("clos"):
            raise Reschedule
        total += cost
        if time.monotonic() - event_time > PROGRESS_SECONDS:
            event_time = time.monotonic()
            worker.log_event(requirements.topic, (key, total))

    finished = run_job(job, context, progress)
    worker.log_event(requirements.topic, (key, total))
    return finished


# --- checking workers


@dataclass(frozen=True)
class WorkerRequirements:
    """What a worker must share with the client: a visible file, the code version, a device."""

    token: Path
    code: str
    device: str

    @property
    def topic(self) -> str:
        """Name of this run, unique on the cluster."""
        return self.token.name


def code_version() -> str:
    """Return the version and the commit of this process's code."""
    return f"{version()} ({commit()})"


@contextmanager
def checked_workers(client: Any, context: JobContext) -> Iterator[WorkerRequirements]:
    """Check all workers; yield the requirements for those that arrive later.

    Raises:
        ThreeRegimeError: a worker does not meet the requirements.
    """
    token = state_folder(context.folder) / f"{RUN_TOKEN}{uuid4().hex}"
    with claims([token]):
        requirements = WorkerRequirements(
            token, code_version(), _common_device(client, context.device)
        )
        start = time.time()
        for worker, clock in _call_on_all(client, check_worker, requirements).items():
            if context.deadline is not None:
                _check_clock(worker, clock, start, time.time())
        yield requirements


def _common_device(client: Any, name: str) -> str:
    """Return a device by name; auto is the one that all workers choose."""
    if name != "auto":
        return name
    devices = set(_call_on_all(client, resolve_device, name).values())
    if len(devices) > 1:
        raise ThreeRegimeError("some workers have a GPU and some have none: say --device cpu")
    return str(devices.pop())


def check_worker(requirements: WorkerRequirements, dask_worker: Any) -> float:
    """Check the requirements, on a worker, with a ThreeRegimeError; return its clock's time."""
    name = f"the worker {dask_worker.address} on {socket.gethostname()}"
    if not requirements.token.exists():
        raise ThreeRegimeError(
            f"{name} does not see {requirements.token.parent}: "
            "give an --out on storage that all machines share"
        )
    if code_version() != requirements.code:
        raise ThreeRegimeError(
            f"{name} runs threeregime {code_version()}, not {requirements.code} as here: "
            "install the same there and start it again"
        )
    if dask_worker.state.nthreads != 1:
        raise ThreeRegimeError(f"{name} does several jobs at once: start it with --nthreads 1")
    try:
        resolve_device(requirements.device)
    except ThreeRegimeError:
        raise ThreeRegimeError(
            f"device = {requirements.device!r} is not at {name}: use --device cpu, or workers that "
            "have it"
        ) from None
    return time.time()


def _check_clock(worker: str, clock: float, start: float, end: float) -> None:
    if not start - CLOCK_SECONDS < clock < end + CLOCK_SECONDS:
        raise ThreeRegimeError(
            f"the clock of the worker {worker} is {abs(clock - end):.0f} s off: "
            "set the clocks, or go without --time-budget"
        )


def _call_on_all(client: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on every worker; return results by address, or raise the first failure."""
    answers = client.run(function, *arguments, on_error="return")
    if not answers:
        raise ThreeRegimeError("all workers are gone: start some, and run it again")
    for worker, answer in answers.items():
        if isinstance(answer, ThreeRegimeError):
            raise answer
        if isinstance(answer, ImportError | AttributeError):
            raise ThreeRegimeError(
                f"the worker {worker} has no threeregime, or another one ({error_line(answer)}): "
                "install the same there and start it again"
            )
        if isinstance(answer, Exception):
            raise ThreeRegimeError(f"the worker {worker} does not answer ({error_line(answer)})")
    return answers
