"""Speed-up by a second worker, and limits of a hundred: ``python -m benchmarks.cluster``.

One Dask worker and then two retrain the same fleets of digits nets, in processes of this machine
that are warmed up and with finished dense runs. From the time, messages and files of a fleet follow
the demands of many workers on the scheduler and on the shared storage, which are printed beside
what these manage on this machine. The last line is ``ratio``, the net-epochs per second of two
workers over those of one.
"""

from __future__ import annotations

import argparse
import os
import pickle
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distributed import get_worker

from benchmarks import small_nets
from threeregime.data import DATA_DIR
from threeregime.sweep import jobs, resumable
from threeregime.sweep.dask_workers import (
    PROGRESS_SECONDS,
    WorkerRequirements,
    checked_workers,
    local_workers,
    run_plan,
)
from threeregime.sweep.plan import JobContext, Plan, fleet_checkpoint, make_plan, state_folder

SHORT = {
    "dense.epochs": 2,
    "dense.milestones": [1],
    "retraining.epochs": 4,
    "retraining.milestones": [2],
    "metrics.error_epochs": 2,
    "metrics.points": 3,
}
WHOLE = small_nets.figure_02()
SMALL = (
    WHOLE.with_fields(SHORT)
    .with_values(epochs=[1, 2], density=[0.05, 0.1, 0.2, 0.4])
    .with_seeds(1, 3)
)
"""The digits experiment with fewer and shorter runs."""


def plan_in(root: Path, members: int) -> tuple[Plan, JobContext]:
    """Plan the rest of the small experiment in a folder."""
    plan = make_plan(SMALL, root, members)
    return plan, JobContext(SMALL, plan.folder, DATA_DIR.absolute())


def plan_in_copy(origin: Path, root: Path, members: int) -> tuple[Plan, JobContext]:
    """Plan the rest of the small experiment in a copy of a folder."""
    shutil.copytree(origin, root)
    return plan_in(root, members)


def net_epochs_per_second(
    client: Any, plan: Plan, context: JobContext, requirements: WorkerRequirements
) -> float:
    """Return the net-epochs per second of all workers together, tables included."""
    start = time.perf_counter()
    finished = list(run_plan(client, plan, context, requirements, lambda cost: None))
    assert len(finished) == len(plan.jobs)
    return plan.cost / (time.perf_counter() - start)


def checkpoint_bytes(plan: Plan, context: JobContext) -> int:
    """Return the size of a fleet's checkpoint, by training the fleet."""
    job, sizes = plan.retrain[0], [0]
    path = fleet_checkpoint(plan.folder, job)

    def add_size(cost: float) -> None:
        sizes.append(path.stat().st_size if path.exists() else 0)

    resumable.CHECKPOINT_SECONDS, seconds = -1.0, resumable.CHECKPOINT_SECONDS
    assert jobs.run_job(job, context, add_size)
    resumable.CHECKPOINT_SECONDS = seconds
    return max(sizes)


def idle(number: int, *payload: Any) -> None:
    """Do nothing, as a task."""


def tasks_per_second(client: Any, payload: tuple[Any, ...], times: int = 300) -> float:
    """Return the rate of empty tasks, each with the arguments of a fleet's."""
    start = time.perf_counter()
    client.gather([client.submit(idle, number, *payload, pure=False) for number in range(times)])
    return times / (time.perf_counter() - start)


def log_events(times: int) -> None:
    """Send many progress events from a worker."""
    for number in range(times):
        get_worker().log_event("benchmark", ("key", float(number)))


def events_per_second(client: Any, times: int = 3000) -> float:
    """Return the rate of events from a worker through the scheduler to the client."""
    last = threading.Event()
    client.subscribe_topic(
        "benchmark", lambda event: last.set() if event[1][1] == times - 1 else None
    )
    start = time.perf_counter()
    client.submit(log_events, times, pure=False).result()
    assert last.wait(60)
    return times / (time.perf_counter() - start)


def bytes_per_second(folder: Path, size: int, times: int = 10) -> float:
    """Return the rate of writing files of one size and flushing each to the disk."""
    content, start = os.urandom(size), time.perf_counter()
    for number in range(times):
        with (folder / f"written-{number}").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    return times * size / (time.perf_counter() - start)


def chain_speedup(members: int, workers: int) -> float:
    """Return an upper bound on the speed-up of the whole experiment by a number of workers.

    Retrainings start after their dense run and fleets are not divided, so that the longest dense
    fleet and the rounds of retrainings after it take the time.
    """
    plan = make_plan(WHOLE, Path("nowhere"), members)
    rounds = -(-len(plan.retrain) // workers)
    longest = max(job.cost for job in plan.dense) + rounds * max(job.cost for job in plan.retrain)
    return plan.cost / longest


@dataclass(frozen=True)
class FleetCosts:
    """Seconds of one fleet trained to the end, and bytes sent, read and written."""

    seconds: float
    sent: int
    read: int
    checkpoint: int
    tables: int

    def demands(self, workers: int) -> dict[str, float]:
        """Return the demands per second of a number of workers, each with such a fleet."""
        saves = 1 / resumable.CHECKPOINT_SECONDS + 1 / self.seconds
        once = (self.read + self.tables) / self.seconds
        return {
            "tasks": workers / self.seconds,
            "progress events": workers * (1 / PROGRESS_SECONDS + 1 / self.seconds),
            "bytes of storage": workers * (self.checkpoint * saves + once),
        }


def mean_fleet(
    rate: float, plan: Plan, context: JobContext, requirements: WorkerRequirements, checkpoint: int
) -> FleetCosts:
    """Return the mean fleet of the whole experiment, at a worker's net-epochs per second."""
    whole = make_plan(WHOLE, Path("nowhere"), plan.retrain[0].nets).retrain

    def size(folder: Path, pattern: str) -> int:
        return sum(path.stat().st_size for path in folder.glob(pattern))

    return FleetCosts(
        seconds=sum(job.cost for job in whole) / len(whole) / rate,
        sent=len(pickle.dumps((plan.retrain[0], context, requirements))),
        read=size(state_folder(plan.folder), "dense-*"),
        checkpoint=checkpoint,
        tables=(size(plan.folder, "nets-*") + size(plan.folder, "pairs-*")) // len(plan.retrain),
    )


def run(folder: Path, members: int, many: int) -> None:
    """Measure in a folder, and print."""
    plan, context = plan_in(folder / "origin", members)
    for job in plan.dense:
        assert jobs.run_job(job, context)
    plan_again = partial(plan_in_copy, folder / "origin", members=members)
    checkpoint = checkpoint_bytes(*plan_again(folder / "trial"))
    rates: dict[int, float] = {}
    for workers in (1, 2):
        plan, context = plan_again(folder / str(workers))
        _, warm_up = plan_again(folder / f"warm-{workers}")
        with local_workers(workers) as client, checked_workers(client, context) as requirements:
            client.run(jobs.run_job, plan.retrain[0], warm_up)
            rates[workers] = net_epochs_per_second(client, plan, context, requirements)
            if workers == 2:
                capacity = {
                    "tasks": tasks_per_second(client, (plan.retrain[0], context, requirements)),
                    "progress events": events_per_second(client),
                    "bytes of storage": bytes_per_second(folder, checkpoint),
                }
        print(f"{workers} worker(s) {rates[workers]:10.1f} net-epochs per second", flush=True)
    fleet = mean_fleet(rates[2] / 2, plan, context, requirements, checkpoint)
    print(
        f"a fleet: {fleet.sent} bytes sent, {fleet.read} read at most, {fleet.checkpoint} in a "
        f"checkpoint, {fleet.tables} in tables; {fleet.seconds:.0f} s if trained to the end"
    )
    print(f"{f'{many} workers, per second':24}{'need':>12}{'here':>12}{'share':>10}")
    for what, need in fleet.demands(many).items():
        print(f"{what:24}{need:12.4g}{capacity[what]:12.4g}{need / capacity[what]:10.3%}")
    bound = chain_speedup(members, many)
    print(f"all of {WHOLE.name}, fleets of {members}: {many} are at most {bound:.0f} times one")
    print(f"ratio {rates[2] / rates[1]:.2f}")


def main() -> None:
    """Print the rates, the demands of many workers, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=6, help="maximum number of nets in a fleet")
    parser.add_argument("--workers", type=int, default=100, help="number of workers to judge")
    arguments = parser.parse_args()
    print(f"digits nets in fleets of up to {arguments.members}")
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.members, arguments.workers)


if __name__ == "__main__":
    main()
