"""Dask workers, on this machine or on many: reaching them, checking them, giving them jobs.

A worker takes one fleet at a time. What it computes goes into the results folder, which client and
workers share; over the network travel a job, one number an epoch, and whether it is finished.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threeregime.errors import ThreeRegimeError
from threeregime.sweep.dask_checks import Site, check, in_words
from threeregime.sweep.jobs import Advance, perform
from threeregime.sweep.plan import DenseJob, Job, Place, Plan, RetrainJob

SCHEDULER_SECONDS = 10.0
"""How long a scheduler may take to answer."""
WORKER_SECONDS = 60.0
"""How long the first worker may take to arrive."""
LATE_SECONDS = 2.0
"""How long a worker is waited for that ought to have stopped."""
TELL_SECONDS = 1.0
"""A worker tells of its progress no more often than this."""


# --- reaching workers


def installed() -> bool:
    """Return whether Dask is installed; it comes with the extra ``dask``."""
    return importlib.util.find_spec("distributed") is not None


@contextmanager
def local(workers: int) -> Iterator[Any]:
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
def connect(address: str) -> Iterator[Any]:
    """Client of a cluster that is there, with at least one worker.

    Args:
        address: the scheduler's, e.g. ``tcp://host:8786``, or the path of its scheduler file.

    Raises:
        ThreeRegimeError: there is no Dask, no scheduler, no worker comes, or the scheduler goes.
    """
    if not installed():
        raise ThreeRegimeError("a Dask cluster needs Dask: pip install 'threeregime[dask]'")
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


def ask(client: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on one worker, whichever is free."""
    return _outcome(client.submit(function, *arguments, pure=False))


def perform_all(
    client: Any, plan: Plan, place: Place, site: Site, advance: Advance
) -> Iterator[Job]:
    """Do a plan's jobs, each retraining after the dense runs it needs; yield the finished ones.

    Where a worker dies, the scheduler gives its fleet to another one, which goes on from the last
    checkpoint. Closing the client, or losing it, ends at its next epoch whatever is still running.

    Args:
        client, site: of workers that have been checked.
        plan: the jobs.
        place: folder, device and deadline; after the deadline nobody is waited for.
        advance: told of progress in net-epochs, never twice of the same, from another thread.

    Raises:
        ThreeRegimeError: a job failed, its workers keep dying, or the scheduler is gone.
    """
    from distributed import as_completed

    client.subscribe_topic(site.topic, _once(advance))
    left = None
    if place.deadline is not None:
        left = max(0.0, place.deadline - time.time()) + LATE_SECONDS
    done = as_completed(loop=client.loop, timeout=left)
    given: dict[str, Job] = {}

    def give(job: Job) -> None:
        key = f"{type(job).__name__}-{job.fleet}-{site.topic}"
        order = -plan.jobs.index(job)
        given[key] = job
        done.add(client.submit(_remote, job, place, site, key=key, priority=order))

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


def _once(advance: Advance) -> Callable[[Any], None]:
    """Handler of progress events; work that is repeated after a worker died is not told again."""
    most: dict[str, float] = {}

    def told(event: Any) -> None:
        _, (key, done) = event
        more = done - most.get(key, 0.0)
        if more > 0:
            most[key] = done
            advance(more)

    return told


def _remote(job: Job, place: Place, site: Site) -> bool:
    """On a worker: do a job, as long as it is wanted from this worker."""
    from distributed import Reschedule, get_worker

    worker = get_worker()
    check(site, worker)
    key = worker.get_current_task()
    done, told = 0.0, time.monotonic()

    def advance(cost: float) -> None:
        nonlocal done, told
        # Nobody can stop a thread from outside. A task that was cancelled, or whose worker is
        # being closed, would keep a machine busy, perhaps beside another that has taken it over.
        task = worker.state.tasks.get(key)
        if task is None or task.state != "executing" or worker.status.name.startswith("clos"):
            raise Reschedule
        done += cost
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            worker.log_event(site.topic, (key, done))

    finished = perform(job, place, advance)
    worker.log_event(site.topic, (key, done))
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
        raise _failed(f"the scheduler is gone, or refused a fleet ({in_words(error)})") from error
    except Exception as error:
        raise _failed(f"a fleet failed ({in_words(error)}); its worker's log tells more") from error


def _failed(line: str) -> ThreeRegimeError:
    return ThreeRegimeError(f"{line}; what is finished is kept, run it again to go on")
