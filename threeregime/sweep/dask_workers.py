"""Dask workers, on this machine or on many: reaching them, checking them, giving them jobs.

A worker takes one fleet at a time. What it computes goes into the results folder, which client and
workers share; over the network travel a job, one number an epoch, and whether it is finished.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import resolve_device
from threeregime.results.provenance import commit
from threeregime.sweep.jobs import run_job
from threeregime.sweep.plan import DenseJob, Job, JobContext, Plan, RetrainJob, state_folder
from threeregime.sweep.resumable import Progress

SCHEDULER_SECONDS = 10.0
"""How long a scheduler may take to answer."""
WORKER_SECONDS = 60.0
"""How long the first worker may take to arrive."""
LATE_SECONDS = 2.0
"""How long a worker is waited for that ought to have stopped."""
TELL_SECONDS = 1.0
"""A worker tells of its progress no more often than this."""


# --- reaching workers


@contextmanager
def local_workers(workers: int) -> Iterator[Any]:
    """Client of workers that live in processes of this machine, as long as the context does."""
    from distributed import Client, LocalCluster

    _silence()
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def connect_workers(address: str) -> Iterator[Any]:
    """Client of a cluster that is there, with at least one worker.

    Args:
        address: the scheduler's, e.g. ``tcp://host:8786``, or the path of its scheduler file.

    Raises:
        ThreeRegimeError: there is no scheduler, no worker comes, or the scheduler goes.
    """
    from distributed import Client
    from distributed.comm import CommClosedError

    _silence()
    try:
        file = Path(address)
        scheduler = str(json.loads(file.read_text())["address"]) if file.is_file() else address
        client = Client(scheduler, timeout=SCHEDULER_SECONDS, set_as_default=False)
    except (OSError, ValueError, LookupError):
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
            raise _failed(f"the scheduler at {address} is gone") from error


def _silence() -> None:
    """What Dask logs on this side is told to the user in one line."""
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


# --- giving them jobs


def run_on_worker(client: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on one worker, whichever is free."""
    return _outcome(client.submit(function, *arguments, pure=False))


def run_plan(
    client: Any,
    plan: Plan,
    context: JobContext,
    requirements: WorkerRequirements,
    progress: Progress,
) -> Iterator[Job]:
    """Do a plan's jobs, each retraining after the dense runs it needs; yield the finished ones.

    Where a worker dies, the scheduler gives its fleet to another one, which goes on from the last
    checkpoint. Closing the client, or losing it, ends at its next epoch whatever is still running.

    Args:
        client, requirements: of workers that have been checked.
        plan: the jobs.
        context: folder, device and deadline; after the deadline nobody is waited for.
        progress: told of progress in net-epochs, never twice of the same, from another thread.

    Raises:
        ThreeRegimeError: a job failed, its workers keep dying, or the scheduler is gone.
    """
    from distributed import as_completed

    client.subscribe_topic(requirements.topic, _once(progress))
    left = None
    if context.deadline is not None:
        left = max(0.0, context.deadline - time.time()) + LATE_SECONDS
    done = as_completed(loop=client.loop, timeout=left)
    given: dict[str, Job] = {}

    def give(job: Job) -> None:
        key = f"{type(job).__name__}-{job.fleet}-{requirements.topic}"
        order = -plan.jobs.index(job)
        given[key] = job
        done.add(client.submit(_remote, job, context, requirements, key=key, priority=order))

    # A retraining is handed in when it can begin: of those that wait for data Dask thinks that
    # they belong to the one worker that has them, and blames them all when it dies.
    lacking = {job: _dense_runs(job, plan) for job in plan.retrain}
    for dense in plan.dense:
        give(dense)
    for job, needs in lacking.items():
        if not needs:
            give(job)
    try:
        for future in done:
            finished = given[future.key]
            if not _outcome(future):
                continue
            yield finished
            for job, needs in lacking.items():
                if finished in needs:
                    needs.discard(finished)
                    if not needs:
                        give(job)
    except TimeoutError:
        return


def _dense_runs(job: RetrainJob, plan: Plan) -> set[Job]:
    """The dense runs of a plan that a retraining starts from."""
    needs = {(unit.protocol.dense_hash, unit.dense_seed) for unit in job.units}
    return {dense for dense in plan.dense if needs & _provides(dense)}


def _provides(job: DenseJob) -> set[tuple[str, int]]:
    return {(job.protocol.dense_hash, seed) for seed in job.seeds}


def _once(progress: Progress) -> Callable[[Any], None]:
    """Handler of progress events; work that is repeated after a worker died is not told again."""
    most: dict[str, float] = {}

    def told(event: Any) -> None:
        _, (key, done) = event
        more = done - most.get(key, 0.0)
        if more > 0:
            most[key] = done
            progress(more)

    return told


def _remote(job: Job, context: JobContext, requirements: WorkerRequirements) -> bool:
    """On a worker: do a job, as long as it is wanted from this worker."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    check_worker(requirements, worker)
    key = worker.get_current_task()
    done, told = 0.0, time.monotonic()

    def report(cost: float) -> None:
        nonlocal done, told
        # Nobody can stop a thread from outside. A task that was cancelled, or whose worker is
        # being closed, would keep a machine busy, perhaps beside another that has taken it over.
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing" or worker.status.name.startswith("clos"):
            raise Reschedule
        done += cost
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            worker.log_event(requirements.topic, (key, done))

    finished = run_job(job, context, report)
    worker.log_event(requirements.topic, (key, done))
    return finished


def _outcome(future: Any) -> Any:
    """What a task returned; whatever went wrong is one line."""
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except ThreeRegimeError:
        raise
    except KilledWorker as error:
        deaths = error.allowed_failures + 1
        raise _failed(
            f"the worker died {deaths} time(s) running over the same fleet, as a rule for want of "
            "memory: give workers more, or make fleets smaller (--fleet)"
        ) from error
    except CancelledError as error:
        raise _failed(f"the scheduler is gone, or refused a fleet ({error_line(error)})") from error
    except Exception as error:
        raise _failed(
            f"a fleet failed ({error_line(error)}); its worker's log tells more"
        ) from error


def _failed(line: str) -> ThreeRegimeError:
    return ThreeRegimeError(f"{line}; what is finished is kept, run it again to go on")


# --- checking them


CLOCK_SECONDS = 5.0
"""How far a worker's clock may be off where there is a deadline."""


@dataclass(frozen=True)
class WorkerRequirements:
    """What a worker must have in common with the client: a file it must see, code, a device."""

    token: Path
    code: str
    device: str

    @property
    def topic(self) -> str:
        """Name of this run among those on the same cluster."""
        return self.token.name


def code_here() -> str:
    """The version and the commit of this process's code."""
    return f"{metadata.version('threeregime')} ({commit()})"


@contextmanager
def checked_workers(client: Any, context: JobContext) -> Iterator[WorkerRequirements]:
    """Check every worker; yield what those that come later are checked against.

    Raises:
        ThreeRegimeError: a worker cannot do its part; says which one and what to do.
    """
    token = state_folder(context.at) / f".run-{uuid4().hex}"
    token.parent.mkdir(parents=True, exist_ok=True)
    token.touch()
    try:
        requirements = WorkerRequirements(token, code_here(), _device_of(client, context.device))
        begin = time.time()
        for worker, clock in _everywhere(client, check_worker, requirements).items():
            if context.deadline is not None:
                _check_clock(worker, clock, begin, time.time())
        yield requirements
    finally:
        token.unlink(missing_ok=True)


def _device_of(client: Any, name: str) -> str:
    """Turn auto into what all workers have."""
    if name != "auto":
        return name
    devices = set(_everywhere(client, resolve_device, name).values())
    if len(devices) > 1:
        raise ThreeRegimeError("some workers have a GPU and some have none: say --device cpu")
    return str(devices.pop())


def check_worker(requirements: WorkerRequirements, dask_worker: Any) -> float:
    """On a worker: see whether it can do its part; return what its clock says.

    Raises:
        ThreeRegimeError: it cannot; says what to do.
    """
    who = f"the worker {dask_worker.address} on {socket.gethostname()}"
    if not requirements.token.exists():
        raise ThreeRegimeError(
            f"{who} does not see {requirements.token.parent}: "
            "give an --out on storage that all machines share"
        )
    if code_here() != requirements.code:
        raise ThreeRegimeError(
            f"{who} runs threeregime {code_here()}, not {requirements.code} as here: "
            "install the same there and start it again"
        )
    if dask_worker.state.nthreads != 1:
        raise ThreeRegimeError(f"{who} does several jobs at once: start it with --nthreads 1")
    try:
        resolve_device(requirements.device)
    except ThreeRegimeError:
        raise ThreeRegimeError(
            f"device = {requirements.device!r} is not at {who}: use --device cpu, or workers that "
            "have it"
        ) from None
    return time.time()


def _check_clock(worker: str, clock: float, begin: float, end: float) -> None:
    if not begin - CLOCK_SECONDS < clock < end + CLOCK_SECONDS:
        raise ThreeRegimeError(
            f"the clock of the worker {worker} is {abs(clock - end):.0f} s off: "
            "set the clocks, or go without --time-budget"
        )


def _everywhere(client: Any, function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Call a function on every worker there is now; the first failure becomes one line."""
    answers = client.run(function, *arguments, on_error="return")
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


def error_line(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
