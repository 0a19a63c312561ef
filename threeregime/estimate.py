"""What a plan holds and what it will cost on this machine."""

from __future__ import annotations

from threeregime import catalogue, results
from threeregime.loader import resident
from threeregime.sweep import DenseJob, Job, Place, Plan
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
    """
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


def _epoch_seconds(job: Job, place: Place) -> float:
    """Seconds of one epoch of a job's fleet, from a trial of at most so many of its members.

    Where the number of steps is given, it is an epoch of the schedule that is stretched over them.
    """
    protocol, training = job.protocol, getattr(job.protocol, _section(job))
    data = resident(protocol.data, place.data_dir, place.download, place.device)
    tried = min(job.nets, MEMBERS)
    # Timed anew even where the engine is known: how busy the machine is changes.
    engine = engine_for(place, protocol, training, job.nets)
    seconds = step_seconds(place, protocol, training, tried, engine)
    steps = training.steps(data.count // training.batch_size)
    return seconds * job.nets / tried * steps / training.epochs


def duration(span: float) -> str:
    """Seconds in words, e.g. "3 min" or "2.5 h"."""
    if span < 60:
        return f"{max(1, round(span))} s"
    return f"{span / 60:.0f} min" if span < 5400 else f"{span / 3600:.1f} h"


def overview(name: str) -> str:
    """One line on an experiment: its title, and at each scale its cells and whether it is there."""
    parts = []
    for scale in catalogue.scales(name):
        experiment = catalogue.experiment(name, scale)
        units = experiment.units()
        have = results.done(experiment, results.ROOT)
        there = sum(
            all((u.protocol.hash(), u.dense_seed, s) in have for s in u.retrain_seeds)
            for u in units
        )
        parts.append(f"{scale} {len(units)} cells x dense seeds, {there / len(units):.0%} there")
    title = catalogue.experiment(name, catalogue.scales(name)[0]).title
    return f"{name}: {title} ({'; '.join(parts)})"
