"""Measure rates in several processes at once, as a sweep runs, and record them."""

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

from threeregime.fleet import compute_settings, device_name
from threeregime.results.provenance import commit

Step = Callable[[int], None]
SECONDS = 2.0


def rates(step: Step, barrier: Barrier, rounds: int) -> list[float]:
    """Return the steps per second of one process in rounds that all processes start together."""
    step(0)
    _wait()
    begin = time.perf_counter()
    step(1)
    _wait()
    count = max(1, round(SECONDS / (time.perf_counter() - begin)))
    values = []
    for _ in range(rounds):
        barrier.wait()
        begin = time.perf_counter()
        for number in range(count):
            step(number)
        _wait()
        values.append(count / (time.perf_counter() - begin))
    return values


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
    """Measure in this process; a failure also ends the other processes."""
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
    """Return median and standard deviation over rounds of all processes' steps per second.

    Args:
        make: makes, in each process, the function of one step, warmed up.
        processes, threads: number of processes, and of threads in each.
        rounds: number of repetitions.

    Returns:
        None if a process failed; it prints the reason to standard error.
    """
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(processes), context.Queue()
    workers = [
        context.Process(target=_attempt, args=(make, threads, barrier, queue, rounds))
        for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    results = [queue.get() for _ in workers]
    for worker in workers:
        worker.join()
    if not all(results):
        return None
    sums = [sum(parts) for parts in zip(*results, strict=True)]
    return statistics.median(sums), statistics.pstdev(sums)


def record(path: Path, device: str, **facts: Any) -> None:
    """Write measurements as JSON, with the device and the commit."""
    origin = {
        "device": device_name(device),
        "commit": commit(),
        "torch": torch.__version__,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **facts}, indent=1) + "\n")
