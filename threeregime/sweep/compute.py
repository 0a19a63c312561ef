"""Compute an experiment: plan it, and run its jobs on this machine or on a Dask cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from threeregime._fields import require
from threeregime._files import HeldError, check_writable, remove_partial, remove_stale
from threeregime._paths import RUNS
from threeregime.data import DATA_DIR
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment
from threeregime.fleet import Engine, resolve_device
from threeregime.protocol import Protocol
from threeregime.results import (
    Results,
    duration,
    finished_nets,
    load_results,
    set_aside_damaged,
    shard_path,
    tables,
    tables_folder,
)
from threeregime.sweep import cost
from threeregime.sweep.dask_workers import (
    RUN_TOKEN,
    checked_workers,
    connect_workers,
    is_dask_installed,
    local_workers,
    run_on_worker,
    run_plan,
)
from threeregime.sweep.jobs import run_job
from threeregime.sweep.memory import max_members
from threeregime.sweep.plan import (
    CLAIM,
    CPU_MEMBERS,
    GPU_MEMBERS,
    Job,
    JobContext,
    Plan,
    RetrainJob,
    checkpoint_units,
    is_complete,
    is_finished,
    make_plan,
    state_folder,
)
from threeregime.sweep.resumable import EPOCHS_BEFORE_DEADLINE, Progress

SHORT_SECONDS = 60.0
"""Work shorter than this is done in this process, since starting workers takes seconds."""

PlanForDevice = Callable[[str, Callable[[Protocol], int]], Plan]
"""Makes a plan, given a device and the number of nets of a protocol that it has memory for."""


def run_sweep(
    experiment: Experiment,
    root: Path,
    *,
    other_roots: Sequence[Path] = (),
    device: str = "auto",
    workers: int = 0,
    dask: str = "",
    fleet: int | None = None,
    engine: str = "auto",
    data_dir: Path = DATA_DIR,
    download: bool = False,
    deadline: float | None = None,
    dry_run: bool = False,
) -> bool:
    """Compute the missing results of an experiment; return whether all of them exist now.

    Args:
        experiment: cells and seeds.
        root: folder of the results. Those that it holds are not computed again.
        other_roots: further folders whose results are not computed again.
        device: cpu, cuda, cuda:N, or auto for a GPU if there is one.
        workers: processes on this machine; 0 for one per core, or one on a GPU.
        dask: address or scheduler file of a Dask cluster to use instead.
        fleet: maximum number of nets in a fleet; None: 48 on a CPU, 384 on a GPU. The device's
            memory may allow fewer.
        engine: name of a :class:`threeregime.fleet.Engine`; auto: that of the net on a CPU, the
            fastest in a trial on a GPU.
        data_dir: folder of the data sets.
        download: whether to download missing data sets.
        deadline: time (as of ``time.time()``) to stop by with everything saved.
        dry_run: only print the plan and its estimated cost.

    Raises:
        ThreeRegimeError: the device, a data set, the cluster or one of its workers is unusable.
    """
    require(fleet is None or fleet >= 1, "fleet", fleet, "1 or more")
    require(workers >= 0, "workers", workers, "0 or more")
    if dask and workers:
        raise ThreeRegimeError(
            f"workers = {workers} is not allowed with a Dask cluster: it has its own"
        )
    if engine != "auto":
        Engine.from_name(engine)
    folder = tables_folder(root, experiment.name, experiment.scale).absolute()
    context = JobContext(
        experiment, folder, data_dir.absolute(), download, device, deadline, engine=engine
    )

    def plan_for(device: str, max_members: Callable[[Protocol], int]) -> Plan:
        if not dry_run and folder.is_dir():
            set_aside_damaged(folder)
            _remove_leftovers(experiment, folder)
        members = fleet or (CPU_MEMBERS if device == "cpu" else GPU_MEMBERS)
        return make_plan(experiment, root, members, other_roots, max_members)

    if dask:
        return _report(_run_on_cluster(plan_for, context, dask, dry_run), context, dry_run)
    return _report(_run_on_this_machine(plan_for, context, workers, dry_run), context, dry_run)


def estimate_seconds(experiment: Experiment, root: Path, data_dir: Path = DATA_DIR) -> float:
    """Estimate the seconds of one core for what a folder lacks of an experiment, by short trials.

    Raises:
        ThreeRegimeError: a data set is missing.
    """
    folder = tables_folder(root, experiment.name, experiment.scale).absolute()
    context = JobContext(experiment, folder, data_dir.absolute())
    plan = make_plan(experiment, root, CPU_MEMBERS)
    return cost.plan_seconds(plan, context)[0] if plan.jobs else 0.0


def obtain_results(
    experiment: Experiment, device: str = "auto", recompute: bool = False, runs: Path | None = None
) -> Results:
    """Return the tables of an experiment; compute what the shipped ones do not hold.

    Args:
        experiment: cells and seeds, on its grid or off it.
        device: as in :func:`run_sweep`.
        recompute: whether to ignore the shipped tables.
        runs: folder of new results; None: ``runs/results`` in the checkout, or without one in the
            current folder.
    """
    root = runs or RUNS / "results"
    shipped = () if recompute else (tables.ROOT,)
    if not is_complete(experiment, root, *shipped):
        run_sweep(experiment, root, other_roots=shipped, device=device)
    return load_results(experiment, *shipped, root)


def _report(remaining: Sequence[Job] | None, context: JobContext, dry_run: bool) -> bool:
    """Print what remains of a plan; return whether nothing does."""
    if remaining is None:
        print("nothing to do: all is there already")
    elif not remaining:
        print(f"finished: {context.folder}")
    elif not dry_run:
        fleets = sum(isinstance(job, RetrainJob) for job in remaining)
        print(f"stopped in time with all saved, {fleets} fleets left: run it again to go on")
    return not remaining


def _run_on_this_machine(
    plan_for: PlanForDevice, context: JobContext, workers: int, dry_run: bool
) -> Sequence[Job] | None:
    """Run a plan in processes of this machine; return the remaining jobs, None if it has none."""
    context = replace(context, device=resolve_device(context.device))
    max_workers = workers or (1 if context.device != "cpu" else os.cpu_count() or 1)
    if max_workers > 1 and not is_dask_installed():
        print("one process, without Dask: pip install 'threeregime[dask]' for more")
        workers = max_workers = 1
    # Fleets are sized for all workers: how many have work is known only from the plan.
    plan = plan_for(context.device, lambda protocol: max_members(protocol, context, max_workers))
    print(cost.describe_plan(plan))
    if not plan.jobs:
        return None
    seconds, epoch_seconds = cost.plan_seconds(plan, context)
    context = replace(context, epoch_seconds=epoch_seconds)
    if not workers:
        available = context.deadline - time.time() if context.deadline else seconds
        max_workers = 1 if min(seconds, available) < SHORT_SECONDS else max_workers
    workers = min(max_workers, max(1, len(plan.retrain)))
    print(f"about {duration(seconds / workers)} in {workers} process(es) on {context.device}")
    if dry_run:
        return plan.jobs
    _check_start(context)
    if workers == 1:
        return _run_with_bar(plan, partial(_run_in_this_process, plan, context))
    start = time.time()
    with local_workers(workers) as client:
        if context.deadline is not None:
            # Stopping the workers is assumed to take as long as starting them took.
            context = replace(context, deadline=context.deadline - (time.time() - start))
        with checked_workers(client, context) as requirements:
            return _run_with_bar(plan, partial(run_plan, client, plan, context, requirements))


def _run_in_this_process(plan: Plan, context: JobContext, progress: Progress) -> Iterator[Job]:
    """Run a plan's jobs one after the other; yield the finished ones.

    Jobs of which another process computes some nets are tried again later, with those that depend
    on them. Where nothing else is left, it waits for that process.
    """
    unfinished, is_held = list(plan.jobs), True
    while unfinished and is_held:
        rest, is_held = [], False
        for job in unfinished:
            try:
                if run_job(job, context, progress, wait=False):
                    yield job
                    continue
            except HeldError:
                is_held = True
            rest.append(job)
        if is_held and len(rest) == len(unfinished):
            # The first one is a dense run, if there is any that others start from.
            is_held = run_job(rest[0], context, progress)
            if is_held:
                yield rest.pop(0)
        unfinished = rest


def _remove_leftovers(experiment: Experiment, folder: Path) -> None:
    """Remove what killed processes left: partial files, claims, checkpoints of finished fleets."""
    state = state_folder(folder)
    for at in (folder, state):
        remove_partial(at)
    remove_stale([*state.glob(f"{CLAIM}*"), *state.glob(f"{RUN_TOKEN}*")])
    checkpoints = list(state.glob("fleet-*.safetensors"))
    finished = finished_nets(experiment, folder.parents[1]) if checkpoints else set()
    for path in checkpoints:
        units, fleet = checkpoint_units(path), path.stem.removeprefix("fleet-")
        is_retrained = bool(units) and all(is_finished(unit, finished) for unit in units)
        if is_retrained or shard_path(folder, "dense", fleet).exists():
            path.unlink(missing_ok=True)


def _run_on_cluster(
    plan_for: PlanForDevice, context: JobContext, dask: str, dry_run: bool
) -> Sequence[Job] | None:
    """Run a plan on a Dask cluster; return the remaining jobs, None if it has none."""
    with connect_workers(dask) as client, checked_workers(client, context) as requirements:
        context = replace(context, device=requirements.device)
        plan = plan_for(
            requirements.device,
            lambda protocol: run_on_worker(client, max_members, protocol, context, 1),
        )
        print(cost.describe_plan(plan))
        if not plan.jobs:
            return None
        # A single worker opens all data sets first, and downloads missing ones for all workers.
        seconds, epoch_seconds = run_on_worker(client, cost.plan_seconds, plan, context)
        context = replace(context, epoch_seconds=epoch_seconds)
        workers, fleets = len(client.nthreads()), max(1, len(plan.retrain))
        about = duration(seconds / min(workers, fleets))
        print(f"about {about} on {workers} worker(s) at {dask}, device {context.device}")
        if workers > fleets:
            print(f"work for {fleets} of them only: a smaller --fleet makes more fleets")
        if dry_run:
            return plan.jobs
        _check_start(context)
        return _run_with_bar(plan, partial(run_plan, client, plan, context, requirements))


def _check_start(context: JobContext) -> None:
    """Check that results can be written, and print a warning if not one epoch can be computed.

    Raises:
        OSError: the folder cannot be made, or no file in it.
    """
    if context.deadline is None or time.time() < context.deadline:
        check_writable(context.folder)
    seconds = EPOCHS_BEFORE_DEADLINE * context.epoch_seconds
    if context.deadline is not None and time.time() + seconds > context.deadline:
        about = duration(seconds)
        print(f"too short a budget to begin an epoch: give {about} more, or a smaller --fleet")


def _run_with_bar(plan: Plan, run: Callable[[Progress], Iterable[Job]]) -> Sequence[Job]:
    """Run a plan under one progress bar; return the jobs that the deadline left unfinished."""
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} net-epochs [{elapsed} < {remaining}]"
    title = f"{plan.experiment.name} ({plan.experiment.scale})"
    with tqdm(total=plan.cost, desc=title, bar_format=form, mininterval=0.5) as bar:

        def progress(cost: float) -> None:
            bar.update(cost)

        finished = {job.fleet for job in run(progress)}
    return [job for job in plan.jobs if job.fleet not in finished]
