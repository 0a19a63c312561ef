"""How a fleet is run on a device: the candidates, and a short trial that picks the fastest.

What a trial found is kept in the user's cache: a sweep that goes on later runs as it began. Every
table records the engine that made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import lanes
from threeregime.fleet.backends import BACKENDS
from threeregime.fleet.cache import cached
from threeregime.fleet.device import device_name, is_out_of_memory

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}
FEWEST_LANES = 8
"""Fewer members than half a vector register leave most lanes empty."""
CLEARLY = 0.9
"""A candidate has to take less than this share of the best one's time to take its place."""
HOPELESS = 2.0
"""A candidate whose first step takes this many times the best one's is not tried further."""


class FleetOptions(TypedDict):
    """The part of an engine that decides how a fleet's nets are laid out and passed through."""

    backend: str
    compiled: bool


@dataclass(frozen=True)
class Engine:
    """How a fleet is run: its name lists what differs from the plainest way.

    ``backend`` is an entry of :data:`threeregime.fleet.backends.BACKENDS`. In ``bfloat16`` a
    training step computes its products and keeps its activations in 16 bits; weights, momentum,
    statistics of batch norm, the loss and everything measured stay in 32. ``compiled`` passes the
    net through torch.compile, ``graphed`` records the whole step as a CUDA graph.
    """

    backend: str = "grouped"
    precision: str = "float32"
    compiled: bool = False
    graphed: bool = False

    @property
    def name(self) -> str:
        """E.g. "grouped bfloat16 compiled graphed"."""
        words = [self.backend, self.precision]
        return " ".join(words + [w for w in ("compiled", "graphed") if getattr(self, w)])

    @property
    def fleet_options(self) -> FleetOptions:
        """What a fleet has to know of it, as arguments of
        :class:`threeregime.fleet.fleet.Fleet`.
        """
        return {"backend": self.backend, "compiled": self.compiled}

    @classmethod
    def from_name(cls, name: str) -> Engine:
        """Look an engine up by its name; float32 where no precision is named.

        Raises:
            ThreeRegimeError: a word that is no part of any engine's name.
        """
        words = name.split()
        known = [*BACKENDS, *PRECISIONS, "compiled", "graphed"]
        unknown = [w for w in words if w not in known]
        backends = [w for w in words if w in BACKENDS]
        precisions = [w for w in words if w in PRECISIONS] or ["float32"]
        if unknown or len(backends) != 1 or len(precisions) != 1:
            raise ThreeRegimeError(
                f"engine = {name!r} is not allowed: one of {', '.join(BACKENDS)}, then if "
                "wanted bfloat16, compiled, graphed"
            )
        return cls(backends[0], precisions[0], "compiled" in words, "graphed" in words)


def candidate_engines(device: torch.device | str, members: int) -> list[Engine]:
    """Engines worth a trial for a fleet of a size, the likeliest first."""
    if torch.device(device).type != "cpu":
        return [
            Engine(backend, "bfloat16", compiled, graphed=True)
            for backend in ("grouped", "separate", "vmapped")
            for compiled in (True, False)
        ]
    precisions = ["float32"] + ["bfloat16"] * _cpu_multiplies_bfloat16()
    found = [Engine(m, p) for m in ("grouped", "separate", "vmapped") for p in precisions]
    if members >= FEWEST_LANES and lanes.available():
        found.insert(0, Engine("lanes"))
    return found


def _cpu_multiplies_bfloat16() -> bool:
    """Whether the processor has instructions for it; without them it is slower than float32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


Trial = Callable[[Engine, float], float]
"""Seconds of a step in an engine; may give up early when a step takes longer than the limit."""


def pick_engine(device: str, members: int, kind: str, trial: Trial) -> Engine:
    """The fastest engine for a kind of fleet on a device, from the cache or by a trial.

    Args:
        device: cpu, cuda or cuda:N.
        members: nets in the fleet.
        kind: what else the speed depends on: identity of net, data and batch.
        trial: measures one candidate.

    Raises:
        torch.OutOfMemoryError: no candidate fits into memory.
    """
    tried = candidate_engines(device, members)
    if len(tried) == 1:
        return tried[0]
    facts = (device_name(device), torch.__version__, members, kind, [e.name for e in tried])
    return Engine.from_name(cached("engine", facts, lambda: _measure(tried, trial))["engine"])


def _measure(tried: list[Engine], trial: Trial) -> dict[str, object]:
    """Time the candidates; one that cannot run here is left out, with the reason."""
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    best = ""
    memory: BaseException | None = None
    for engine in tried:
        try:
            limit = HOPELESS * seconds[best] if best else float("inf")
            seconds[engine.name] = trial(engine, limit)
        except (RuntimeError, ThreeRegimeError) as error:
            if is_out_of_memory(error):
                memory = error
            reason = str(error).strip() or type(error).__name__
            failed[engine.name] = reason.splitlines()[0]
            continue
        if not best or seconds[engine.name] < CLEARLY * seconds[best]:
            best = engine.name
    if not best:
        raise memory or ThreeRegimeError(f"no engine can run this fleet here: {failed}")
    return {"engine": best, "seconds_per_step": seconds, "failed": failed}
