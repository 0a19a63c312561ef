"""The cost of a plan on this machine, from a few timed steps of each kind of fleet."""

from __future__ import annotations

import math
import time

import torch

from threeregime.fleet import WARM_UP, Engine, Fleet, compute_settings, cpu_engine, pick_gpu_engine
from threeregime.models import net_builder
from threeregime.protocol import Protocol, Training
from threeregime.sweep.plan import Job, JobContext, Plan
from threeregime.training import TrainingRun

TRIAL_MEMBERS = 16
"""Most nets in a trial: the engine that is fastest for these is fastest for more."""
TRIAL_STEPS = 3


def engine_for(context: JobContext, protocol: Protocol, training: Training, members: int) -> Engine:
    """Return the engine for a fleet: the context's, that of the net, or on a GPU the fastest."""
    if context.engine != "auto":
        return Engine.from_name(context.engine)
    if context.device == "cpu":
        task = context.load_task(protocol)
        return cpu_engine(net_builder(protocol.net, task), task.dummy_input(1).shape)
    members = min(members, TRIAL_MEMBERS)
    return pick_gpu_engine(
        context.device,
        members,
        f"{protocol.hash('data', 'net')} batch {training.batch_size}",
        lambda engine, limit: step_seconds(context, protocol, training, members, engine, limit),
    )


def step_seconds(
    context: JobContext,
    protocol: Protocol,
    training: Training,
    members: int,
    engine: Engine,
    limit: float = math.inf,
) -> float:
    """Return the seconds of one training step of a fleet, the minimum of a few steps.

    No step is timed after one that took longer than ``limit``.
    """
    device = context.device
    task = context.load_task(protocol)
    warm_up_steps = WARM_UP + 1 if engine.graphed else 1
    best = math.inf
    with compute_settings(device):
        build = net_builder(protocol.net, task)
        fleet = Fleet.initial(build, range(members), device, **engine.fleet_options)
        loader = task.loader(range(members), training.batch_size)
        run = TrainingRun(fleet, loader, training, engine)
        draws = loader.draw(0)
        with fleet.mode(training=True):
            for step in range(warm_up_steps + TRIAL_STEPS):
                start = time.perf_counter()
                run.advance(*loader.step_draws(draws, step % loader.steps))
                if device != "cpu":
                    torch.cuda.synchronize(device)
                if step >= warm_up_steps:
                    best = min(best, time.perf_counter() - start)
                    if best > limit:
                        break
    return best


def describe_plan(plan: Plan) -> str:
    """Return one line on the size of a plan."""
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
    """Estimate the seconds of a plan on one worker, and of its longest epoch.

    Raises:
        ThreeRegimeError: a batch or an augmentation that the data set does not allow.
    """
    for job in plan.jobs:
        # Checked first: in a trial it would look like a failure of every engine in turn.
        context.load_task(job.protocol).check_batch(job.training.batch_size)
    epochs: dict[tuple[str, int], float] = {}
    total = 0.0
    for job in plan.jobs:
        kind = (job.protocol.hash("data", "net", job.section), job.nets)
        if kind not in epochs:
            epochs[kind] = _epoch_seconds(job, context)
        total += job.cost / job.nets * epochs[kind]
    return total, max(epochs.values())


def _epoch_seconds(job: Job, context: JobContext) -> float:
    """Estimate the seconds of one epoch of a job's fleet from a trial of its first members.

    Where the recipe gives steps, it is an epoch of the schedule that is stretched over them.
    """
    protocol, training = job.protocol, job.training
    members = min(job.nets, TRIAL_MEMBERS)
    # Timed again even if the engine is cached, since the load of the machine changes.
    engine = engine_for(context, protocol, training, job.nets)
    seconds = step_seconds(context, protocol, training, members, engine)
    steps = training.steps(context.load_task(protocol).count // training.batch_size)
    return seconds * job.nets / members * steps / training.epochs
