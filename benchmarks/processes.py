"""Measuring rates in several processes at once, as a sweep does; keeping what was found."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import torch

from threeregime.fleet.device import compute_settings, device_name
from threeregime.results import commit

Step = Callable[[int], None]
SECONDS = 2.0


def rates(step: Step, barrier: Barrier, rounds: int) -> list[float]:
    """Steps per second of one process in several rounds, all processes working at once."""
    step(0)
    _wait()
    begin = time.perf_counter()
    step(1)
    _wait()
    count = max(1, round(SECONDS / (time.perf_counter() - begin)))
    found = []
    for _ in range(rounds):
        barrier.wait()
        begin = time.perf_counter()
        for number in range(count):
            step(number)
        _wait()
        found.append(count / (time.perf_counter() - begin))
    return found


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _attempt(
    make: Callable[[], Step],
    threads: int,
    barrier: Barrier,
    queue: multiprocessing.Queue[list[float]],
    rounds: int,
) -> None:
    """Measure in this process; a failure ends the other processes and the measurement too."""
    try:
        torch.manual_seed(0)
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        with ExitStack() as settings:
            for device in devices:
                settings.enter_context(compute_settings(device, threads))
            queue.put(rates(make(), barrier, rounds))
    except BaseException:
        barrier.abort()
        queue.put([])
        raise


def measure(
    make: Callable[[], Step], processes: int, threads: int = 1, rounds: int = 5
) -> tuple[float, float] | None:
    """Median and spread over rounds of the processes' summed steps per second.

    Args:
        make: prepares, in each process, the function that does one step; warm-up is its business.
        processes, threads: how many, and threads of each.
        rounds: repetitions.

    Returns:
        None where a process failed (it says why on its own standard error).
    """
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_attempt, args=(make, threads, barrier, queue, rounds))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    found = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    if not all(found):
        return None
    sums = [sum(parts) for parts in zip(*found, strict=True)]
    return statistics.median(sums), statistics.pstdev(sums)


def record(path: Path, device: str, **facts: Any) -> None:
    """Write what was measured, and by which code and where, as JSON."""
    origin = {
        "device": device_name(device),
        "commit": commit(),
        "torch": torch.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **facts}, indent=1) + "\n")
