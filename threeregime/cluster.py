"""Doing a plan's jobs: here, or on Dask workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from tqdm import tqdm

from threeregime.jobs import perform
from threeregime.sweep import DenseJob, Place, Plan

TOPIC = "threeregime-progress"


def execute(plan: Plan, place: Place, workers: int) -> bool:
    """Do a plan as far as the deadline allows, under one progress bar; return whether all is done.

    Args:
        plan: what is to be done.
        place: folder, device and deadline.
        workers: processes; 1 works in this one.
    """
    form = "{l_bar}{bar}| {n:.0f}/{total:.0f} net-epochs [{elapsed} < {remaining}]"
    title = f"{plan.experiment.name} ({plan.experiment.scale})"
    with tqdm(total=plan.cost, desc=title, bar_format=form, mininterval=0.5) as bar:

        def advance(cost: float) -> None:
            bar.update(cost)

        if workers == 1:
            # Not all(...) of a generator: past the deadline each job still saves what it has.
            return all([perform(job, place, advance) for job in plan.jobs])
        return all([done for done in _on_workers(plan, place, workers, advance)])


def _on_workers(plan: Plan, place: Place, workers: int, advance: object) -> Iterator[bool]:
    """Do the jobs on a local Dask cluster, retraining after the dense runs that it needs."""
    from distributed import Client, LocalCluster, as_completed

    logging.getLogger("distributed").setLevel(logging.ERROR)
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.subscribe_topic(TOPIC, lambda event: advance(event[1]))  # type: ignore[operator]
        dense = {
            job: client.submit(_remote, job, place, key=f"dense-{job.fleet}", priority=1)
            for job in plan.dense
        }
        futures = list(dense.values())
        for number, job in enumerate(plan.retrain):
            needs = {(u.protocol.dense_hash, u.dense_seed) for u in job.units}
            after = [f for d, f in dense.items() if needs & _provides(d)]
            futures.append(
                client.submit(
                    _remote, job, place, after, key=f"retrain-{job.fleet}", priority=-number
                )
            )
        for future in as_completed(futures):
            yield future.result()


def _provides(job: DenseJob) -> set[tuple[str, int]]:
    return {(job.protocol.dense_hash, seed) for seed in job.seeds}


def _remote(job: object, place: Place, after: object = None) -> bool:
    """Do a job on a worker; ``after`` only makes it wait for what it needs."""
    from distributed import get_worker

    worker = get_worker()
    return perform(job, place, lambda cost: worker.log_event(TOPIC, cost))  # type: ignore[arg-type]
