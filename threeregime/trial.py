"""Trials: a few steps of a fleet, timed, to foresee what a sweep costs and to pick its engine."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch

from threeregime.device import prepare
from threeregime.engine import Engine, pick
from threeregime.fleet import Fleet
from threeregime.graphs import WARM_UP
from threeregime.loader import resident
from threeregime.models import builder
from threeregime.protocol import Protocol, Training
from threeregime.sweep import Place
from threeregime.task import Task
from threeregime.training import Run

MEMBERS = 16
"""A larger fleet is tried with so many: what is fastest for these is for more."""
STEPS = 3


def engine_for(place: Place, protocol: Protocol, training: Training, members: int) -> Engine:
    """The engine for a fleet: the one asked for, or the fastest in a trial that is kept."""
    if place.engine != "auto":
        return Engine.named(place.engine)
    tried = min(members, MEMBERS)
    return pick(
        place.device,
        tried,
        f"{protocol.hash('data', 'net')} batch {training.batch_size}",
        lambda engine, limit: step_seconds(place, protocol, training, tried, engine, limit),
    )


def step_seconds(
    place: Place,
    protocol: Protocol,
    training: Training,
    members: int,
    engine: Engine,
    limit: float = math.inf,
) -> float:
    """Measured seconds of a step of a fleet, the least of a few.

    Args:
        place, protocol, training: what is trained, and where.
        members: nets in the fleet.
        engine: how it is run.
        limit: seconds; a step that takes longer is the last one.
    """
    data = resident(protocol.data, place.data_dir, place.download, place.device)
    return timed(data, place.device, protocol, training, members, engine, limit)


def timed(
    data: Task,
    device: str,
    protocol: Protocol,
    training: Training,
    members: int,
    engine: Engine,
    limit: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The same on given data, which lie on the device and may be no more than an outline.

    Args:
        clock: what tells seconds; :func:`time.process_time` leaves out what other processes take.
    """
    prepare(device)
    seeds = range(members)
    fleet = Fleet.initial(
        builder(protocol.net, data),
        seeds,
        device,
        **engine.of_fleet,
    )
    loader = data.loader(seeds, training.batch_size, protocol.data)
    run = Run(fleet, loader, training, engine)
    fleet.module.train()
    draws = loader.draw(0)
    unmeasured = WARM_UP + 1 if engine.graphed else 1
    best = math.inf
    for number in range(unmeasured + STEPS):
        begin = clock()
        run.advance(*loader.part(draws, number % loader.steps))
        if device != "cpu":
            torch.cuda.synchronize(device)
        if number >= unmeasured:
            best = min(best, clock() - begin)
            if best > limit:
                break
    return best
