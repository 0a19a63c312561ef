"""What a plan costs on this machine: a few steps of each kind of fleet, timed."""

from __future__ import annotations

import math
import time

import torch

from threeregime.data import Task, load_task
from threeregime.fleet import WARM_UP, Engine, Fleet, compute_settings, pick_engine
from threeregime.models import net_builder
from threeregime.protocol import Protocol, Training
from threeregime.sweep.plan import DenseJob, Job, JobContext, Plan
from threeregime.training import TrainingRun

MEMBERS = 16
"""A larger fleet is tried with so many: what is fastest for these is for more."""
STEPS = 3


def engine_for(context: JobContext, protocol: Protocol, training: Training, members: int) -> Engine:
    """The engine for a fleet: the one asked for, or the fastest in a trial that is kept."""
    if context.engine != "auto":
        return Engine.from_name(context.engine)
    tried = min(members, MEMBERS)
    return pick_engine(
        context.device,
        tried,
        f"{protocol.hash('data', 'net')} batch {training.batch_size}",
        lambda engine, limit: step_seconds(context, protocol, training, tried, engine, limit),
    )


def step_seconds(
    context: JobContext,
    protocol: Protocol,
    training: Training,
    members: int,
    engine: Engine,
    limit: float = math.inf,
) -> float:
    """Return the seconds of a step of a fleet, the least of a few.

    Args:
        context, protocol, training: what is trained, and where.
        members: nets in the fleet.
        engine: how it is run.
        limit: seconds; a step that takes longer is the last one.
    """
    device = context.device
    task = load_task(protocol.data, context.data_dir, context.download, device)
    unmeasured = WARM_UP + 1 if engine.graphed else 1
    best = math.inf
    with compute_settings(device):
        build = net_builder(protocol.net, task)
        fleet = Fleet.initial(build, range(members), device, **engine.fleet_options)
        loader = task.loader(range(members), training.batch_size)
        run = TrainingRun(fleet, loader, training, engine)
        draws = loader.draw(0)
        with fleet.mode(training=True):
            for number in range(unmeasured + STEPS):
                begin = time.perf_counter()
                run.advance(*loader.step_draws(draws, number % loader.steps))
                if device != "cpu":
                    torch.cuda.synchronize(device)
                if number >= unmeasured:
                    best = min(best, time.perf_counter() - begin)
                    if best > limit:
                        break
    return best


def describe_plan(plan: Plan) -> str:
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


def plan_seconds(plan: Plan, context: JobContext) -> tuple[float, float]:
    """Predicted seconds of a plan on one worker, and of its longest epoch.

    From a trial of a few steps of each kind of fleet.

    Raises:
        ThreeRegimeError: a batch or an augmentation that the data set does not allow.
    """
    for job in plan.jobs:
        # At once, and not as something that every engine fails at, each in its turn.
        _data(job, context).check_batch(_training(job).batch_size)
    trials: dict[tuple[str, int], float] = {}
    total = 0.0
    for job in plan.jobs:
        key = (job.protocol.hash("data", "net", _section(job)), job.nets)
        if key not in trials:
            trials[key] = _epoch_seconds(job, context)
        total += job.cost / job.nets * trials[key]
    return total, max(trials.values())


def _section(job: Job) -> str:
    return "dense" if isinstance(job, DenseJob) else "retraining"


def _training(job: Job) -> Training:
    return job.protocol.dense if isinstance(job, DenseJob) else job.protocol.retraining


def _data(job: Job, context: JobContext) -> Task:
    return load_task(job.protocol.data, context.data_dir, context.download, context.device)


def _epoch_seconds(job: Job, context: JobContext) -> float:
    """Seconds of one epoch of a job's fleet, from a trial of at most so many of its members.

    Where the number of steps is given, it is an epoch of the schedule that is stretched over them.
    """
    protocol, training, data = job.protocol, _training(job), _data(job, context)
    tried = min(job.nets, MEMBERS)
    # Timed anew even where the engine is known: how busy the machine is changes.
    engine = engine_for(context, protocol, training, job.nets)
    seconds = step_seconds(context, protocol, training, tried, engine)
    steps = training.steps(data.count // training.batch_size)
    return seconds * job.nets / tried * steps / training.epochs
