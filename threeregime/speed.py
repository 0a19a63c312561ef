"""How fast nets are trained on a device: what one has to do, and how long that takes.

A fleet's step is thought to take so long a layer, whatever its size, and so long for the
floating-point operations of its nets::

    seconds = layers x L + members x operations / R

``L`` is measured on a fleet too small to have much to compute, ``R`` on nets small and large;
between these it is interpolated.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from threeregime import catalogue
from threeregime.engine import Engine
from threeregime.loader import outline
from threeregime.models import NETS, builder
from threeregime.protocol import Data, Net, Protocol
from threeregime.stacked import Concat
from threeregime.trial import timed

PASSES = 3
"""A pass forward and the pass backward, which computes two gradients, in passes forward."""


@dataclass(frozen=True)
class Work:
    """What one net has to do: operations of a pass forward for one example, and its layers."""

    operations: float
    layers: int

    @property
    def per_layer(self) -> float:
        """Operations of a layer for one example: how large the products are."""
        return self.operations / self.layers


@dataclass(frozen=True)
class Speed:
    """How fast one kind of nets is trained on a device.

    Attributes:
        layer: seconds of a fleet's step for each of its layers, however little it computes.
        rates: floating-point operations per second beyond that, by operations of a layer for one
            example; interpolated between, and the nearest one's outside.
    """

    layer: float
    rates: Mapping[float, float]

    def step(self, work: Work, batch: int, members: int) -> float:
        """Seconds of a step of a fleet."""
        sizes = sorted(self.rates)
        known = [math.log(self.rates[size]) for size in sizes]
        rate = math.exp(np.interp(math.log(work.per_layer), np.log(sizes), known))
        return work.layers * self.layer + members * batch * PASSES * work.operations / rate


class Counter(TorchDispatchMode):
    """Counts floating-point operations of products; torch's own counter, without its bookkeeping.

    It follows modules and gradients, too, which takes as long again as what it counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation and count it."""
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.operations += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


@functools.cache
def work(net: Net, data: Data) -> Work:
    """Count what a net of a protocol has to do, on no device and without its data set."""
    task = outline(data)
    with torch.device("meta"):
        plain, one = builder(net, task)(), task.blank(1)
    for layer in plain.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm):
            # No product is in them, and to follow them takes longer than all the rest.
            layer.forward = nn.Identity().forward  # type: ignore[method-assign]
    with torch.no_grad(), Counter() as counter:
        plain(one)
    layers = [
        m
        for m in plain.modules()
        if isinstance(m, Concat) or next(m.parameters(recurse=False), None) is not None
    ]
    return Work(counter.operations, len(layers))


# --- timing this machine


@dataclass(frozen=True)
class Trial:
    """A fleet that is timed: its protocol, the size of its batches and of itself."""

    protocol: Protocol
    batch: int
    members: int

    def seconds(self, device: str) -> float:
        """Seconds of a step, the least of a few."""
        protocol = self.protocol.replace("data.images", self.batch)
        training = replace(protocol.retraining, batch_size=self.batch)
        data, engine = outline(protocol.data, device), _engine(protocol.net, device)
        # As if no other process were there: a forecast is kept, and they will be gone.
        clock = time.process_time if device == "cpu" else time.perf_counter
        return timed(data, device, protocol, training, self.members, engine, clock=clock)


def trials(device: str) -> dict[str, list[Trial]]:
    """What is timed of each kind of nets: first a fleet with little to compute, then others."""
    wide = 1 if device == "cpu" else 32  # so many fill a GPU
    pictures, sentences = catalogue.protocol("digits"), catalogue.experiment("figure_14", "digits")
    translation = sentences.protocol.update({"net.depth": 1, "net.width": 1})
    return {
        "images": [Trial(pictures, 32, 2), Trial(catalogue.protocol("paper"), 16, wide)],
        "sentences": [
            Trial(sentences.protocol, 32, 2),
            Trial(sentences.protocol, 32, 16 * wide),
            Trial(translation, 8, wide),
        ],
    }


def _engine(net: Net, device: str) -> Engine:
    """One that runs the net at once: nothing is compiled, nothing tried out."""
    mechanism = "grouped" if NETS[net.name].reads == "images" else "vmapped"
    return Engine(mechanism) if device == "cpu" else Engine(mechanism, "bfloat16", graphed=True)


def speeds(device: str) -> dict[str, Speed]:
    """How fast each kind of nets is trained on a device now, by what it reads."""
    return {
        kind: speed(chosen, [trial.seconds(device) for trial in chosen])
        for kind, chosen in trials(device).items()
    }


def speed(chosen: Iterable[Trial], seconds: Iterable[float]) -> Speed:
    """What the seconds of trials say, the first of which has the least to compute."""
    (few, brief), *others = zip(chosen, seconds, strict=True)
    amounts = {t: work(t.protocol.net, t.protocol.data) for t in (few, *(t for t, _ in others))}

    def computed(trial: Trial) -> float:
        return trial.members * trial.batch * PASSES * amounts[trial].operations

    layer, rates = brief / amounts[few].layers, {}
    # Each of the two is needed for the other; a few rounds settle them.
    for _ in range(10):
        for trial, took in others:
            # At least half the time is for computing: nothing else is known of the trial.
            left = max(took - layer * amounts[trial].layers, took / 2)
            rates[amounts[trial].per_layer] = computed(trial) / left
        rate = rates[min(rates)]
        layer = max(brief - computed(few) / rate, brief / 10) / amounts[few].layers
    return Speed(layer, rates)
