"""How much a fleet gains over training one net at a time: ``python -m benchmarks.fleet``.

Every way trains the digits nets on the same augmented batches, in as many processes at once as
there are cores, one thread each, as a sweep does. Printed are net-steps (one net, one batch)
per second of all processes together; the last line is ``ratio``, the best fleet against plain
modules with torch.optim one at a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
import torch.nn.functional as F

from threeregime import catalogue, data, lanes
from threeregime.fleet import Fleet
from threeregime.jobs import builder
from threeregime.loader import Loader
from threeregime.pruning import masks
from threeregime.training import Run

PROTOCOL = catalogue.protocol("digits")
Way = tuple[str, int, str, bool]
"""Kind, members, mechanism, compiled."""


def one_at_a_time() -> Callable[[int], None]:
    """A plain module, torch.optim.SGD and mask, on batches made by the same loader."""
    digits = data.load("digits")
    net = builder(PROTOCOL, digits)()
    retraining = PROTOCOL.retraining
    optimizer = torch.optim.SGD(
        net.parameters(),
        lr=retraining.lr,
        momentum=retraining.momentum,
        weight_decay=retraining.weight_decay,
    )
    weights = {n: p for n, p in net.named_parameters() if p.dim() == 4}
    kept = masks({n: w.detach()[None] for n, w in weights.items()}, ["uniform"], [0.1])
    loader = Loader(digits, [0], retraining.batch_size, crop=1, flip=False)
    draws = loader.draw(0)

    def step(number: int) -> None:
        images, labels = loader.batch(draws, number % loader.steps, torch.float32)
        optimizer.zero_grad()
        F.cross_entropy(net(images[:, 0]), labels[0]).backward()
        optimizer.step()
        with torch.no_grad():
            for name, weight in weights.items():
                weight.mul_(kept[name][0])

    return step


def fleet_of(members: int, mechanism: str, compiled: bool) -> Callable[[int], None]:
    """The engine itself."""
    digits = data.load("digits")
    fleet = Fleet.initial(builder(PROTOCOL, digits), range(members), mechanism=mechanism)
    loader = Loader(digits, range(members), PROTOCOL.retraining.batch_size, 1, False)
    run = Run(fleet, loader, PROTOCOL.retraining, compiled)
    weights = {name: fleet.state()[name] for name in fleet.prunable()}
    run.prune(masks(weights, ["uniform"] * members, [0.1] * members))
    draws = loader.draw(0)
    return lambda number: run.step(*loader.batch(draws, number % loader.steps, torch.float32))


def rate(step: Callable[[int], None], nets: int, barrier: Barrier, rounds: int = 5) -> list[float]:
    """Net-steps per second of one process in several rounds, all processes working at once."""
    begin = time.perf_counter()
    step(0)
    step(1)
    count = max(2, round(4 / (time.perf_counter() - begin)))
    rates = []
    for _ in range(rounds):
        barrier.wait()
        begin = time.perf_counter()
        for number in range(count):
            step(number)
        rates.append(count * nets / (time.perf_counter() - begin))
    return rates


def work(way: Way, barrier: Barrier, queue: multiprocessing.Queue[list[float]]) -> None:
    """Measure one way in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kind, members, mechanism, compiled = way
    step = one_at_a_time() if kind == "plain" else fleet_of(members, mechanism, compiled)
    if compiled:
        step(0)
    queue.put(rate(step, members, barrier))


def attempt(way: Way, barrier: Barrier, queue: multiprocessing.Queue[list[float]]) -> None:
    """Measure one way; a failure ends the other processes and the measurement too."""
    try:
        work(way, barrier, queue)
    except BaseException:
        barrier.abort()
        queue.put([])
        raise


def measure(way: Way, processes: int) -> tuple[float, float]:
    """Median and spread over rounds of the processes' summed rates."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=attempt, args=(way, barrier, queue)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    rates = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    if not all(rates):
        raise SystemExit(f"{way}: a process failed")
    sums = [sum(parts) for parts in zip(*rates, strict=True)]
    return statistics.median(sums), statistics.pstdev(sums)


def main() -> None:
    """Print a table of all ways and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[16, 48])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--compile", action="store_true", help="torch.compile as well: minutes")
    chosen = parser.parse_args()
    names = ["grouped", *(["lanes"] if lanes.available() else [])]
    ways = [("plain", 1, "", False)]
    ways += [
        ("fleet", members, name, compiled)
        for name in names
        for members in chosen.members
        for compiled in ([False, True] if chosen.compile else [False])
    ]
    print(f"digits default, {chosen.processes} processes of one thread, net-steps per second")
    rates = {}
    for way in ways:
        rates[way], spread = measure(way, chosen.processes)
        kind, members, name, compiled = way
        words = f"fleet of {members}, {name}{', compiled' if compiled else ''}"
        print(
            f"{'one net at a time' if kind == 'plain' else words:32} "
            f"{rates[way]:8.0f} +- {spread:.0f}",
            flush=True,
        )
    print(f"ratio {max(rates[way] for way in ways[1:]) / rates[ways[0]]:.1f}")


if __name__ == "__main__":
    main()
