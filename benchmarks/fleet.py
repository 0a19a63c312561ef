"""Speed-up of fleets over one net at a time: ``python -m benchmarks.fleet``.

All train the digits nets on the same augmented batches, in one process per core with one thread
each, as a sweep does. Net-steps (one net, one batch) per second of all processes together are
printed; the last line is ``ratio``, the best fleet over plain modules with torch.optim.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.processes import Step, measure
from threeregime.data import ImageBatches, load_images
from threeregime.experiments import load_scale
from threeregime.fleet import Engine, Fleet, lanes
from threeregime.models import net_builder
from threeregime.pruning import magnitude_masks
from threeregime.training import TrainingRun

PROTOCOL = load_scale("digits")


def one_at_a_time() -> Step:
    """Train a plain module by torch.optim.SGD with a mask, on batches of the same loader."""
    digits = load_images("digits")
    net = net_builder(PROTOCOL.net, digits)()
    retraining = PROTOCOL.retraining
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=retraining.lr,
        momentum=retraining.momentum,
        weight_decay=retraining.weight_decay,
    )
    weights = {n: p for n, p in net.named_parameters() if p.dim() == 4}
    masks = magnitude_masks({n: w.detach()[None] for n, w in weights.items()}, ["uniform"], [0.1])
    loader = ImageBatches(digits, [0], retraining.batch_size, crop=1, flip=False)
    draws = loader.draw(0)

    def step(number: int) -> None:
        images, labels = loader.batch(
            loader.step_draws(draws, number % loader.steps), torch.float32
        )
        optimizer.zero_grad()
        F.cross_entropy(net(images[:, 0]), labels[0]).backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(masks[name][0])

    return step


def fleet_of(members: int, engine: Engine) -> Step:
    """Train a fleet."""
    digits = load_images("digits")
    seeds = range(members)
    fleet = Fleet.initial(net_builder(PROTOCOL.net, digits), seeds, **engine.fleet_options)
    loader = ImageBatches(digits, seeds, PROTOCOL.retraining.batch_size, 1, False)
    run = TrainingRun(fleet, loader, PROTOCOL.retraining, engine)
    weights = {name: fleet.state()[name] for name in fleet.prunable()}
    run.prune(magnitude_masks(weights, ["uniform"] * members, [0.1] * members))
    draws = loader.draw(0)
    fleet.module.train()
    return lambda number: run.step(*loader.step_draws(draws, number % loader.steps))


def main() -> None:
    """Print all rates and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="also compiled: minutes")
    arguments = parser.parse_args()
    print(f"digits default, {arguments.processes} processes of one thread, net-steps per second")
    single = rate("one net at a time", one_at_a_time, 1, arguments.processes)
    fleets = [
        rate(
            f"fleet of {members}, {engine.name}",
            partial(fleet_of, members, engine),
            members,
            arguments.processes,
        )
        for name in ["grouped", *(["lanes"] if lanes.available() else [])]
        for members in arguments.members
        for compiled in ([False, True] if arguments.compile else [False])
        for engine in [Engine(name, compiled=compiled)]
    ]
    print(f"ratio {max(fleets) / single:.1f}")


def rate(words: str, make: Callable[[], Step], nets: int, processes: int) -> float:
    """Measure, print and return net-steps per second."""
    result = measure(make, processes)
    if result is None:
        raise SystemExit(f"{words}: a process failed")
    steps, spread = result
    print(f"{words:40} {steps * nets:8.0f} +- {spread * nets:.0f}", flush=True)
    return steps * nets


if __name__ == "__main__":
    main()
