"""Computing an experiment: planning it, and doing the jobs here or on Dask workers."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from threeregime.data import DATA_DIR
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment
from threeregime.fleet import Engine, resolve_device
from threeregime.protocol import Protocol
from threeregime.results import Results, duration, load_results, tables, tables_folder
from threeregime.sweep import cost
from threeregime.sweep.dask_workers import (
    checked_workers,
    connect_workers,
    local_workers,
    run_on_worker,
    run_plan,
)
from threeregime.sweep.jobs import run_job
from threeregime.sweep.memory import max_members
from threeregime.sweep.plan import (
    MEMBERS,
    Job,
    JobContext,
    Plan,
    RetrainJob,
    is_complete,
    make_plan,
)
from threeregime.sweep.resumable import EPOCHS_BEFORE_DEADLINE, Progress

SHORT_SECONDS = 60.0
"""Starting workers takes seconds: work as short as this is done in this process."""


def run_sweep(
    experiment: Experiment,
    root: Path,
    *,
    also: Sequence[Path] = (),
    device: str = "auto",
    workers: int = 0,
    dask: str = "",
    fleet: int = MEMBERS,
    engine: str = "auto",
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
        workers: processes to start here; 0 takes one a core, or one on a GPU.
        dask: a Dask cluster to use instead: its scheduler's address, or its scheduler file.
        fleet: most nets in a fleet; fewer where the device has no memory for so many.
        engine: name of one (:class:`threeregime.fleet.engine.Engine`); auto: the fastest in a
        trial.
        data_dir, download: where data sets lie, and whether to fetch missing ones.
        deadline: time (as of ``time.time()``) by which to stop with everything saved.
        dry_run: print the plan and its predicted cost, and do nothing.

    Raises:
        ThreeRegimeError: a device, a data set, the cluster or what its workers need is not there.
    """
    if fleet < 1 or workers < 0:
        raise ThreeRegimeError(
            f"fleet = {fleet}, workers = {workers} is not allowed: 1 or more, 0 or more"
        )
    if dask and workers:
        raise ThreeRegimeError(
            f"workers = {workers} is not allowed with a Dask cluster: it has its own"
        )
    if engine != "auto":
        Engine.from_name(engine)
    at = tables_folder(root, experiment.name, experiment.scale).absolute()
    context = JobContext(
        experiment,
        at,
        data_dir.absolute(),
        download,
        device,
        deadline,
        epoch_seconds=0.0,
        engine=engine,
    )
    make = partial(make_plan, experiment, root, fleet, also)
    left = _there(make, context, dask, dry_run) if dask else _here(make, context, workers, dry_run)
    return _tell(left, context, dry_run)


def obtain_results(
    experiment: Experiment, device: str = "auto", recompute: bool = False, runs: Path | None = None
) -> Results:
    """Tables of an experiment: the shipped ones, and computed now whatever they do not hold.

    Args:
        experiment: what is wanted; cells off its grid are computed too.
        device: as in :func:`run_sweep`.
        recompute: leave the shipped tables aside.
        runs: where new results go (default ``runs/results`` beside the shipped ones).
    """
    own = runs or tables.ROOT.parent / "runs" / "results"
    shipped = () if recompute else (tables.ROOT,)
    if not is_complete(experiment, own, *shipped):
        run_sweep(experiment, own, also=shipped, device=device)
    return load_results(experiment, *shipped, own)


def _tell(left: Sequence[Job] | None, context: JobContext, dry_run: bool) -> bool:
    """Say in words what is left of a plan; tell whether nothing is."""
    if left is None:
        print("nothing to do: all is there already")
        return True
    if dry_run:
        return False
    if not left:
        print(f"finished: {context.at}")
        return True
    fleets = sum(isinstance(job, RetrainJob) for job in left)
    print(f"stopped in time with all saved, {fleets} fleets left: run it again to go on")
    return False


Make = Callable[[Callable[[Protocol], int]], Plan]


def _here(make: Make, context: JobContext, workers: int, dry_run: bool) -> Sequence[Job] | None:
    """Do a plan on this machine; return the jobs that are left, None if there were none."""
    context = replace(context, device=resolve_device(context.device))
    most = workers or (1 if context.device != "cpu" else os.cpu_count() or 1)
    # Sized before it is known how many fleets there will be.
    todo = make(lambda protocol: max_members(protocol, context, most))
    print(cost.describe_plan(todo))
    if not todo.jobs:
        return None
    seconds, epoch_seconds = cost.plan_seconds(todo, context)
    context = replace(context, epoch_seconds=epoch_seconds)
    if not workers:
        limit = context.deadline - time.time() if context.deadline else seconds
        most = 1 if min(seconds, limit) < SHORT_SECONDS else most
    workers = min(most, len(todo.retrain))
    about = duration(seconds / workers)
    print(f"about {about} in {workers} process(es) on {context.device}")
    if dry_run:
        return todo.jobs
    _warn_of_short_budget(context)
    if workers == 1:
        return _execute(todo, partial(_one_by_one, todo, context))
    begin = time.time()
    with local_workers(workers) as client:
        if context.deadline is not None:
            # Ending the workers is thought to take as long as starting them did.
            context = replace(context, deadline=context.deadline - (time.time() - begin))
        with checked_workers(client, context) as requirements:
            return _execute(todo, partial(run_plan, client, todo, context, requirements))


def _there(make: Make, context: JobContext, dask: str, dry_run: bool) -> Sequence[Job] | None:
    """Do a plan on a Dask cluster; return the jobs that are left, None if there were none."""
    with connect_workers(dask) as client, checked_workers(client, context) as requirements:
        context = replace(context, device=requirements.device)
        todo = make(lambda protocol: run_on_worker(client, max_members, protocol, context, 1))
        print(cost.describe_plan(todo))
        if not todo.jobs:
            return None
        # One worker alone looks at all data sets first, and downloads what is missing for all.
        seconds, epoch_seconds = run_on_worker(client, cost.plan_seconds, todo, context)
        context = replace(context, epoch_seconds=epoch_seconds)
        workers, fleets = len(client.nthreads()), len(todo.retrain)
        about = duration(seconds / min(workers, fleets))
        print(f"about {about} on {workers} worker(s) at {dask}, device {context.device}")
        if workers > fleets:
            print(f"work for {fleets} of them only: a smaller --fleet makes more fleets")
        if dry_run:
            return todo.jobs
        _warn_of_short_budget(context)
        return _execute(todo, partial(run_plan, client, todo, context, requirements))


def _warn_of_short_budget(context: JobContext) -> None:
    """Say so where not one epoch fits into the time that is left: nothing would ever get on."""
    needed = EPOCHS_BEFORE_DEADLINE * context.epoch_seconds
    if context.deadline is not None and time.time() + needed > context.deadline:
        about = duration(needed)
        print(f"too short a budget to begin an epoch: give {about} more, or a smaller --fleet")


def _one_by_one(todo: Plan, context: JobContext, progress: Progress) -> Iterable[Job]:
    """Do a plan's jobs in this process; yield the finished ones."""
    return (job for job in todo.jobs if run_job(job, context, progress))


def _execute(todo: Plan, work: Callable[[Progress], Iterable[Job]]) -> Sequence[Job]:
    """Let jobs be done as far as the deadline allows, under one progress bar; return the others."""
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} net-epochs [{elapsed} < {remaining}]"
    title = f"{todo.experiment.name} ({todo.experiment.scale})"
    with tqdm(total=todo.cost, desc=title, bar_format=form, mininterval=0.5) as bar:

        def progress(cost: float) -> None:
            bar.update(cost)

        finished = {job.fleet for job in work(progress)}
    return [job for job in todo.jobs if job.fleet not in finished]
