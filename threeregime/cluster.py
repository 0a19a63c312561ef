"""Computing an experiment: planning it, and doing the jobs here or on Dask workers."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from threeregime import estimate, results
from threeregime.catalogue import Experiment
from threeregime.data import DATA_DIR
from threeregime.errors import ThreeRegimeError
from threeregime.jobs import Advance, perform
from threeregime.sweep import MEMBERS, DenseJob, Job, Place, Plan, plan

TOPIC = "threeregime-progress"
SHORT_SECONDS = 60.0
"""Starting workers takes seconds: work as short as this is done in this process."""


def compute(
    experiment: Experiment,
    root: Path,
    *,
    also: Sequence[Path] = (),
    device: str = "auto",
    workers: int = 0,
    fleet: int = MEMBERS,
    data_dir: Path = DATA_DIR,
    download: bool = False,
    deadline: float | None = None,
    dry_run: bool = False,
) -> bool:
    """Compute what is missing of an experiment; return whether all of it is there now.

    Args:
        experiment: what is wanted.
        root: where results go, and are looked for.
        also: further folders in which results are looked for.
        device: cpu, cuda, cuda:N, or auto for a GPU where there is one.
        workers: processes; 0 takes one a core, or one on a GPU.
        fleet: most nets in a fleet.
        data_dir, download: where data sets lie, and whether to fetch missing ones.
        deadline: time (as of ``time.time()``) by which to stop with everything saved.
        dry_run: print the plan and its predicted cost, and do nothing.

    Raises:
        ThreeRegimeError: a device or a data set is not there.
    """
    if fleet < 1 or workers < 0:
        raise ThreeRegimeError(
            f"fleet = {fleet}, workers = {workers} is not allowed: 1 or more, 0 or more"
        )
    device = _device(device)
    todo = plan(experiment, root, fleet, also)
    print(estimate.describe(todo))
    if not todo.jobs:
        print("nothing to do: all is there already")
        return True
    place = Place(experiment, todo.at, data_dir, download, device, deadline)
    seconds, epoch_seconds = estimate.seconds(todo, place)
    place = replace(place, epoch_seconds=epoch_seconds)
    if not workers:
        short = min(seconds, deadline - time.time() if deadline else seconds) < SHORT_SECONDS
        workers = 1 if short or device != "cpu" else os.cpu_count() or 1
    workers = min(workers, len(todo.retrain))
    print(f"about {estimate.duration(seconds / workers)} in {workers} process(es) on {device}")
    if dry_run:
        return False
    if _execute(todo, place, workers):
        print(f"finished: {todo.at}")
        return True
    left = len(plan(experiment, root, fleet, also).retrain)
    print(f"stopped in time with all saved, {left} fleets left: run it again to go on")
    return False


def obtain(
    experiment: Experiment, device: str = "auto", recompute: bool = False, runs: Path | None = None
) -> results.Results:
    """Tables of an experiment: the shipped ones, and computed now whatever they do not hold.

    Args:
        experiment: what is wanted; cells off its grid are computed too.
        device: as in :func:`compute`.
        recompute: leave the shipped tables aside.
        runs: where new results go (default ``runs/results`` beside the shipped ones).
    """
    own = runs or results.ROOT.parent / "runs" / "results"
    shipped = () if recompute else (results.ROOT,)
    if plan(experiment, own, also=shipped).retrain:
        compute(experiment, own, also=shipped, device=device)
    return results.load(experiment, *shipped, own)


def _device(name: str) -> str:
    """Turn auto into cuda where there is one; refuse a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ThreeRegimeError(f"device = {name!r} is not here: use cpu or auto") from None
    return name


def _execute(plan: Plan, place: Place, workers: int) -> bool:
    """Do a plan as far as the deadline allows, under one progress bar; tell if it is done."""
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} net-epochs [{elapsed} < {remaining}]"
    title = f"{plan.experiment.name} ({plan.experiment.scale})"
    with tqdm(total=plan.cost, desc=title, bar_format=form, mininterval=0.5) as bar:

        def advance(cost: float) -> None:
            bar.update(cost)

        if workers == 1:
            done = [perform(job, place, advance) for job in plan.jobs]
        else:
            done = list(_on_workers(plan, place, workers, advance))
        return all(done)


def _on_workers(
    plan: Plan, place: Place, workers: int, advance: Callable[[float], None]
) -> Iterator[bool]:
    """Do the jobs on a local Dask cluster, each retraining after the dense runs that it needs."""
    from distributed import Client, LocalCluster, as_completed

    logging.getLogger("distributed").setLevel(logging.ERROR)
    begin = time.time()
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        if place.deadline is not None:
            # Ending the workers is thought to take as long as starting them did.
            place = replace(place, deadline=place.deadline - (time.time() - begin))
        client.subscribe_topic(TOPIC, lambda event: advance(event[1]))
        dense = {
            job: client.submit(_remote, job, place, key=f"dense-{job.fleet}", priority=1)
            for job in plan.dense
        }
        futures = list(dense.values())
        for number, job in enumerate(plan.retrain):
            needs = {(u.protocol.dense_hash, u.dense_seed) for u in job.units}
            after = [f for d, f in dense.items() if needs & _provides(d)]
            key = f"retrain-{job.fleet}"
            futures.append(client.submit(_remote, job, place, after, key=key, priority=-number))
        for future in as_completed(futures):
            yield future.result()


def _provides(job: DenseJob) -> set[tuple[str, int]]:
    return {(job.protocol.dense_hash, seed) for seed in job.seeds}


def _remote(job: Job, place: Place, after: object = None) -> bool:
    """Do a job on a worker; ``after`` only makes it wait for what it needs."""
    from distributed import get_worker

    worker = get_worker()
    told: Advance = lambda cost: worker.log_event(TOPIC, cost)  # noqa: E731
    return perform(job, place, told)
