"""Engines: how a fleet runs on a device, and which one a net gets.

On a CPU a rule of the net decides, on a GPU a short trial, whose result is stored in the user's
cache so that a sweep is resumed with the engine that it began with. Every table records the engine
that made it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from threeregime.errors import ThreeRegimeError
from threeregime.fleet.backends import BACKENDS
from threeregime.fleet.cache import cached
from threeregime.fleet.device import device_name, is_out_of_memory
from threeregime.kernels import load_library, record

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
SWITCH_RATIO = 0.9
"""A candidate replaces the best one if it takes less than this share of its time."""
ABORT_RATIO = 2.0
"""A candidate is given up if its first step takes this many times that of the best one."""


@dataclass(frozen=True)
class Engine:
    """How a fleet runs.

    ``backend`` is an entry of :data:`threeregime.fleet.backends.BACKENDS`. In ``bfloat16`` a
    training step computes its products and stores its activations in 16 bits; weights, momentum,
    statistics of batch norm, the loss and all measurements stay in 32. ``compiled`` passes the net
    through torch.compile, ``graphed`` records the whole step as a CUDA graph.
    """

    backend: str = "grouped"
    precision: str = "float32"
    compiled: bool = False
    graphed: bool = False

    @property
    def name(self) -> str:
        """All choices in words, e.g. "grouped bfloat16 compiled graphed"."""
        flags = [flag for flag in ("compiled", "graphed") if getattr(self, flag)]
        return " ".join([self.backend, self.precision, *flags])

    @property
    def fleet_options(self) -> dict[str, Any]:
        """Arguments of :class:`threeregime.fleet.fleet.Fleet`."""
        return {"backend": self.backend, "compiled": self.compiled}

    @classmethod
    def from_name(cls, name: str) -> Engine:
        """Return the engine with a name; float32 is the default precision.

        Raises:
            ThreeRegimeError: a word is not part of any engine's name.
        """
        words = name.split()
        backends = [word for word in words if word in BACKENDS]
        precisions = [word for word in words if word in PRECISIONS] or ["float32"]
        unknown = {*words} - {*BACKENDS, *PRECISIONS, "compiled", "graphed"}
        if unknown or len(backends) != 1 or len(precisions) != 1:
            raise ThreeRegimeError(
                f"engine = {name!r} is not allowed: one of {', '.join(BACKENDS)}, optionally "
                "followed by bfloat16, compiled, graphed"
            )
        if backends == ["planned"] and (
            precisions != ["float32"] or {"compiled", "graphed"} & {*words}
        ):
            raise ThreeRegimeError(
                f"engine = {name!r} is not allowed: planned is float32, as it is"
            )
        return cls(backends[0], precisions[0], "compiled" in words, "graphed" in words)


def cpu_engine(build: Callable[[], nn.Module], inputs: torch.Size) -> Engine:
    """Return the engine for a net on a CPU, by a rule: nothing is timed.

    ``planned`` where a plan has all operations of the net. Otherwise ``vmapped`` for a net without
    statistics, ``grouped`` where all layers have a stacked form, and else ``separate``; one line
    says so. The same net gets the same engine on every machine with a C++ compiler.

    Args:
        build: function that returns one plain net.
        inputs: shape of a batch of inputs.
    """
    with torch.random.fork_rng(devices=[]):
        net = build()
    try:
        load_library()
        record(net, inputs[1:])
    except ThreeRegimeError as error:
        engine = Engine(_uncompiled_backend(net))
        if engine.backend != "vmapped":  # a good one for nets of matrix products
            _print_once(f"{error}: nets run {engine.backend}, several times slower")
        return engine
    return Engine("planned")


def _uncompiled_backend(net: nn.Module) -> str:
    if next(net.buffers(), None) is None and not any(
        isinstance(m, nn.Conv2d) for m in net.modules()
    ):
        return "vmapped"
    try:
        BACKENDS["grouped"].stack(net, 1)
    except ThreeRegimeError:
        return "separate"
    return "grouped"


@functools.cache
def _print_once(line: str) -> None:
    print(f"threeregime: {line}", file=sys.stderr)


GPU_ENGINES = [
    Engine(backend, "bfloat16", compiled, graphed=True)
    for backend in ("grouped", "separate", "vmapped")
    for compiled in (True, False)
]
"""The engines to try on a GPU, the most promising first."""


StepTimer = Callable[[Engine, float], float]
"""Seconds of a step in an engine; may return early when a step takes longer than the limit."""


def pick_gpu_engine(device: str, members: int, workload: str, timer: StepTimer) -> Engine:
    """Return the fastest engine for a kind of fleet on a GPU, from the cache or by a trial.

    Args:
        device: cuda or cuda:N.
        members: number of nets in the fleet.
        workload: what else the speed depends on: identity of net, data and batch.
        timer: function that times one candidate.

    Raises:
        torch.OutOfMemoryError: no candidate fits into memory.
        ThreeRegimeError: no candidate can run.
    """
    names = [engine.name for engine in GPU_ENGINES]
    key = (device_name(device), torch.__version__, members, workload, names)
    trial = cached(
        "engine",
        key,
        lambda: _time_engines(GPU_ENGINES, timer),
        is_valid=lambda stored: stored.get("engine") in names,
    )
    return Engine.from_name(trial["engine"])


def _time_engines(engines: list[Engine], timer: StepTimer) -> dict[str, object]:
    """Time the candidates; record the reason for each one that cannot run."""
    seconds: dict[str, float] = {}
    failures: dict[str, str] = {}
    best = ""
    memory_error: BaseException | None = None
    for engine in engines:
        try:
            limit = ABORT_RATIO * seconds[best] if best else float("inf")
            seconds[engine.name] = timer(engine, limit)
        except (RuntimeError, ThreeRegimeError) as error:
            if is_out_of_memory(error):
                memory_error = error
            reason = str(error).strip() or type(error).__name__
            failures[engine.name] = reason.splitlines()[0]
            continue
        if not best or seconds[engine.name] < SWITCH_RATIO * seconds[best]:
            best = engine.name
    if not best:
        raise memory_error or ThreeRegimeError(f"no engine can run this fleet: {failures}")
    return {"engine": best, "seconds_per_step": seconds, "failed": failures}
