"""How much a fleet gains over training one net at a time: ``python -m benchmarks.fleet``.

Every way trains the digits nets on the same augmented batches, in as many processes at once as
there are cores, one thread each, as a sweep does. Printed are net-steps (one net, one batch)
per second of all processes together; the last line is ``ratio``, the best fleet against plain
modules with torch.optim one at a time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.processes import Step, measure
from threeregime.data import registry
from threeregime.data.images import ImageBatches
from threeregime.experiments import catalogue
from threeregime.fleet import lanes
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet
from threeregime.models.registry import net_builder
from threeregime.pruning.magnitude import magnitude_masks
from threeregime.training.run import TrainingRun

PROTOCOL = catalogue.load_scale("digits")


def one_at_a_time() -> Step:
    """A plain module, torch.optim.SGD and mask, on batches made by the same loader."""
    digits = registry.load_images("digits")
    net = net_builder(PROTOCOL.net, digits)()
    retraining = PROTOCOL.retraining
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=retraining.lr,
        momentum=retraining.momentum,
        weight_decay=retraining.weight_decay,
    )
    weights = {n: p for n, p in net.named_parameters() if p.dim() == 4}
    kept = magnitude_masks({n: w.detach()[None] for n, w in weights.items()}, ["uniform"], [0.1])
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
                weight.mul_(kept[name][0])

    return step


def fleet_of(members: int, engine: Engine) -> Step:
    """The engine itself."""
    digits = registry.load_images("digits")
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
    """Print a table of all ways and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="torch.compile as well: minutes")
    chosen = parser.parse_args()
    print(f"digits default, {chosen.processes} processes of one thread, net-steps per second")
    alone = rate("one net at a time", one_at_a_time, 1, chosen.processes)
    fleets = [
        rate(
            f"fleet of {members}, {engine.name}",
            partial(fleet_of, members, engine),
            members,
            chosen.processes,
        )
        for name in ["grouped", *(["lanes"] if lanes.available() else [])]
        for members in chosen.members
        for compiled in ([False, True] if chosen.compile else [False])
        for engine in [Engine(name, compiled=compiled)]
    ]
    print(f"ratio {max(fleets) / alone:.1f}")


def rate(words: str, make: Callable[[], Step], nets: int, processes: int) -> float:
    """Measure one way, print and return its net-steps per second."""
    found = measure(make, processes)
    if found is None:
        raise SystemExit(f"{words}: a process failed")
    steps, spread = found
    print(f"{words:40} {steps * nets:8.0f} +- {spread * nets:.0f}", flush=True)
    return steps * nets


if __name__ == "__main__":
    main()
