"""What a plan holds and what it will cost on this machine."""

from __future__ import annotations

from threeregime.loader import resident
from threeregime.protocol import Training
from threeregime.sweep import DenseJob, Job, Place, Plan
from threeregime.task import Task
from threeregime.trial import MEMBERS, engine_for, step_seconds


def describe(plan: Plan) -> str:
    """The plan in a few words."""
    experiment = plan.experiment
    cells = len(experiment.variants) * len(experiment.temperatures) * len(experiment.loads)
    nets = sum(job.nets for job in plan.retrain)
    return (
        f"{experiment.name} at scale {experiment.scale}: {cells} cells, "
        f"{len(experiment.dense_seeds)} x {len(experiment.retrain_seeds)} seeds; left to do: "
        f"{sum(job.nets for job in plan.dense)} dense runs in {len(plan.dense)} fleets, "
        f"{nets} retrainings in {len(plan.retrain)} fleets, {plan.cost:.0f} net-epochs"
    )


def seconds(plan: Plan, place: Place) -> tuple[float, float]:
    """Predicted seconds of a plan on one worker, and of its longest epoch.

    From a trial of a few steps of each kind of fleet.

    Raises:
        ThreeRegimeError: a batch or an augmentation that the data set does not allow.
    """
    for job in plan.jobs:
        # At once, and not as something that every engine fails at, each in its turn.
        _data(job, place).check(_training(job).batch_size, job.protocol.data)
    trials: dict[tuple[str, int], float] = {}
    total = 0.0
    for job in plan.jobs:
        key = (job.protocol.hash("data", "net", _section(job)), job.nets)
        if key not in trials:
            trials[key] = _epoch_seconds(job, place)
        total += job.cost / job.nets * trials[key]
    return total, max(trials.values())


def _section(job: Job) -> str:
    return "dense" if isinstance(job, DenseJob) else "retraining"


def _training(job: Job) -> Training:
    return job.protocol.dense if isinstance(job, DenseJob) else job.protocol.retraining


def _data(job: Job, place: Place) -> Task:
    return resident(job.protocol.data, place.data_dir, place.download, place.device)


def _epoch_seconds(job: Job, place: Place) -> float:
    """Seconds of one epoch of a job's fleet, from a trial of at most so many of its members.

    Where the number of steps is given, it is an epoch of the schedule that is stretched over them.
    """
    protocol, training, data = job.protocol, _training(job), _data(job, place)
    tried = min(job.nets, MEMBERS)
    # Timed anew even where the engine is known: how busy the machine is changes.
    engine = engine_for(place, protocol, training, job.nets)
    seconds = step_seconds(place, protocol, training, tried, engine)
    steps = training.steps(data.count // training.batch_size)
    return seconds * job.nets / tried * steps / training.epochs


def duration(span: float) -> str:
    """Seconds in words, e.g. "3 min", "2.5 h" or "12 days"."""
    if span < 60:
        return f"{max(1, round(span))} s"
    hours, days = span / 3600, span / 86_400
    if hours < 1.5:
        return f"{span / 60:.0f} min"
    if hours < 48:
        return f"{hours:.1f} h"
    return f"{days:.0f} days" if days < 730 else f"{days / 365:,.0f} years"
