"""What a second worker gains, and what limits a hundred: ``python -m benchmarks.cluster``.

The same retraining fleets of the digits nets are done by one Dask worker and by two, in processes
of this machine that are warm before the clock runs; their dense runs are there already. What a
fleet sent, wrote and took then says what many workers would ask of the scheduler and of the shared
storage, and that stands beside what either manages here. The last line is ``ratio``, two workers
over one in net-epochs per second.
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

from threeregime.data.registry import DATA_DIR
from threeregime.experiments import catalogue
from threeregime.sweep import jobs, resumable
from threeregime.sweep.dask_workers import (
    TELL_SECONDS,
    WorkerRequirements,
    checked_workers,
    local_workers,
    run_plan,
)
from threeregime.sweep.plan import JobContext, Plan, make_plan, state_folder

SHORT = {
    "dense.epochs": 2,
    "dense.milestones": [1],
    "retraining.epochs": 4,
    "retraining.milestones": [2],
    "metrics.error_epochs": 2,
    "metrics.points": 3,
}
WHOLE = catalogue.load_experiment("figure_02", "digits")
SMALL = (
    WHOLE.with_fields(SHORT)
    .with_values(epochs=[1, 2], density=[0.05, 0.1, 0.2, 0.4])
    .with_seeds(1, 3)
)
"""The digits experiment but for the length of its runs, and with few of them."""


def planned(root: Path, members: int) -> tuple[Plan, JobContext]:
    """What is left of the small experiment in a folder."""
    todo = make_plan(SMALL, root, members)
    return todo, JobContext(SMALL, todo.at, DATA_DIR.absolute())


def copied(origin: Path, root: Path, members: int) -> tuple[Plan, JobContext]:
    """The same in another folder."""
    shutil.copytree(origin, root)
    return planned(root, members)


def work(client: Any, todo: Plan, place: JobContext, site: WorkerRequirements) -> float:
    """Net-epochs per second of all workers together, tables included."""
    start = time.perf_counter()
    done = list(run_plan(client, todo, place, site, lambda cost: None))
    assert len(done) == len(todo.jobs)
    return todo.cost / (time.perf_counter() - start)


def checkpoint_bytes(todo: Plan, place: JobContext) -> int:
    """Size of the checkpoint of a half-trained fleet, by training one here."""
    job, sizes = todo.retrain[0], [0]
    path = state_folder(todo.at) / f"fleet-{job.fleet}.safetensors"

    def look(cost: float) -> None:
        sizes.append(path.stat().st_size if path.exists() else 0)

    resumable.CHECKPOINT_SECONDS, usual = -1.0, resumable.CHECKPOINT_SECONDS
    assert jobs.run_job(job, place, look)
    resumable.CHECKPOINT_SECONDS = usual
    return max(sizes)


def idle(number: int, *payload: Any) -> None:
    """A task that does nothing."""


def tasks_per_second(client: Any, payload: tuple[Any, ...], times: int = 300) -> float:
    """Tasks of no duration, each with all that a fleet's has."""
    start = time.perf_counter()
    client.gather([client.submit(idle, number, *payload, pure=False) for number in range(times)])
    return times / (time.perf_counter() - start)


def log_events(times: int) -> None:
    """On a worker: tell of progress many times."""
    for number in range(times):
        get_worker().log_event("benchmark", ("key", float(number)))


def events_per_second(client: Any, times: int = 3000) -> float:
    """Events from a worker through the scheduler to the client."""
    last = threading.Event()
    client.subscribe_topic(
        "benchmark", lambda event: last.set() if event[1][1] == times - 1 else None
    )
    start = time.perf_counter()
    client.submit(log_events, times, pure=False).result()
    assert last.wait(60)
    return times / (time.perf_counter() - start)


def bytes_per_second(folder: Path, size: int, times: int = 10) -> float:
    """Files of the size of a checkpoint, written one by one and flushed to the disk."""
    content, start = os.urandom(size), time.perf_counter()
    for number in range(times):
        with (folder / f"written-{number}").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    return times * size / (time.perf_counter() - start)


def chain_speedup(members: int, workers: int) -> float:
    """How much faster than one so many workers can do the whole experiment at best.

    A retraining starts after its dense run and a fleet is not divided, so that the longest dense
    fleet and the rounds of retrainings after it set a bound.
    """
    todo = make_plan(WHOLE, Path("nowhere"), members)
    rounds = -(-len(todo.retrain) // workers)
    longest = max(job.cost for job in todo.dense) + rounds * max(job.cost for job in todo.retrain)
    return todo.cost / longest


@dataclass(frozen=True)
class Fleet:
    """What one fleet takes: seconds if trained to the end, and bytes."""

    seconds: float
    sent: int
    read: int
    checkpoint: int
    tables: int

    def needs(self, workers: int) -> dict[str, float]:
        """What so many workers, each with such a fleet, ask for, per second."""
        saves = 1 / resumable.CHECKPOINT_SECONDS + 1 / self.seconds
        once = (self.read + self.tables) / self.seconds
        return {
            "tasks": workers / self.seconds,
            "progress events": workers * (1 / TELL_SECONDS + 1 / self.seconds),
            "bytes of storage": workers * (self.checkpoint * saves + once),
        }


def fleet_of(
    rate: float, todo: Plan, place: JobContext, site: WorkerRequirements, checkpoint: int
) -> Fleet:
    """The mean fleet of the whole experiment, at so many net-epochs per second of one worker."""
    whole = make_plan(WHOLE, Path("nowhere"), todo.retrain[0].nets).retrain

    def size(folder: Path, pattern: str) -> int:
        return sum(path.stat().st_size for path in folder.glob(pattern))

    return Fleet(
        seconds=sum(job.cost for job in whole) / len(whole) / rate,
        sent=len(pickle.dumps((todo.retrain[0], place, site))),
        read=size(state_folder(todo.at), "dense-*"),
        checkpoint=checkpoint,
        tables=(size(todo.at, "nets-*") + size(todo.at, "pairs-*")) // len(todo.retrain),
    )


def run(folder: Path, members: int, many: int) -> None:
    """Measure in a folder, and print."""
    todo, place = planned(folder / "origin", members)
    for job in todo.dense:
        assert jobs.run_job(job, place)
    again = partial(copied, folder / "origin", members=members)
    checkpoint = checkpoint_bytes(*again(folder / "trial"))
    rates: dict[int, float] = {}
    for workers in (1, 2):
        todo, place = again(folder / str(workers))
        _, elsewhere = again(folder / f"warm-{workers}")
        with local_workers(workers) as client, checked_workers(client, place) as site:
            client.run(jobs.run_job, todo.retrain[0], elsewhere)
            rates[workers] = work(client, todo, place, site)
            if workers == 2:
                here = {
                    "tasks": tasks_per_second(client, (todo.retrain[0], place, site)),
                    "progress events": events_per_second(client),
                    "bytes of storage": bytes_per_second(folder, checkpoint),
                }
        print(f"{workers} worker(s) {rates[workers]:10.1f} net-epochs per second", flush=True)
    fleet = fleet_of(rates[2] / 2, todo, place, site, checkpoint)
    print(
        f"a fleet: {fleet.sent} bytes sent, {fleet.read} read at most, {fleet.checkpoint} in a "
        f"checkpoint, {fleet.tables} in tables; {fleet.seconds:.0f} s if trained to the end"
    )
    print(f"{f'{many} workers, per second':24}{'need':>12}{'here':>12}{'share':>10}")
    for what, need in fleet.needs(many).items():
        print(f"{what:24}{need:12.4g}{here[what]:12.4g}{need / here[what]:10.3%}")
    bound = chain_speedup(members, many)
    print(f"all of {WHOLE.name}, fleets of {members}: {many} are at most {bound:.0f} times one")
    print(f"ratio {rates[2] / rates[1]:.2f}")


def main() -> None:
    """Print the rates, the needs of many workers, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=6, help="most nets in a fleet")
    parser.add_argument("--workers", type=int, default=100, help="how many would be limited")
    chosen = parser.parse_args()
    print(f"digits nets in fleets of up to {chosen.members}")
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), chosen.members, chosen.workers)


if __name__ == "__main__":
    main()
