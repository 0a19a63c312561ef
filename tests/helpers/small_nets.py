"""Small nets of all operations that a plan has, and fleets of them with drawn weights and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn

from threeregime.fleet import Fleet
from threeregime.kernels import find_compiler
from threeregime.models import Concat

needs_compiler = pytest.mark.skipif(
    find_compiler() is None, reason="no C++ compiler: apt-get install g++"
)


class Written(nn.Module):
    """A net whose pass is a function of its layers and its input."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def pixels(height: int, width: int, k: int, s: int, p: int) -> tuple[int, int]:
    """Return the sides of a convolution's output; 0 or less where the kernel does not fit."""
    return (height + 2 * p - k) // s + 1, (width + 2 * p - k) // s + 1


@dataclass
class Layer:
    """A drawn operation."""

    kind: str
    k: int = 1
    s: int = 1
    p: int = 0
    channels: int = 1
    flag: bool = False


@dataclass
class Recipe:
    """A drawn net: its input, its operations, and how it ends."""

    shape: tuple[int, ...]
    layers: list[Layer] = field(default_factory=list)
    head: str = "mean"
    bias: bool = True


class Drawn(nn.Module):
    """A net of drawn operations; those that do not fit its activations are left out."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.steps: list[tuple[Layer, list[str]]] = []
        channels, *sides = recipe.shape
        height, width = sides or (1, 1)
        self.fewest = height * width  # pixels of an image that a batch norm sees
        for layer in recipe.layers if sides else [x for x in recipe.layers if x.k == 1]:
            if layer.kind in ("conv", "pair"):
                after = pixels(height, width, layer.k, layer.s, layer.p)
                if min(after) < 1 or max(after) > 12:
                    continue
                (height, width), before, channels = after, channels, layer.channels
                count = 1 + (layer.kind == "pair")
                self.add(layer, *(self._conv(before, channels, layer, sides) for _ in range(count)))
            elif layer.kind == "pool":
                if not sides or min(height, width) < layer.k:
                    continue
                height, width = height // layer.k, width // layer.k
                self.add(layer)
            elif layer.kind in ("norm", "twice"):
                self.fewest = min(self.fewest, height * width)
                norm = nn.BatchNorm2d if sides else nn.BatchNorm1d
                self.add(layer, norm(channels, eps=0.1, momentum=0.3))
            elif layer.kind == "residual":
                same = Layer("conv", layer.k, 1, layer.k // 2, flag=layer.flag)
                self.add(layer, self._conv(channels, channels, same, sides))
            elif layer.kind == "concat" and channels < 20:
                same = Layer("conv", layer.k, 1, layer.k // 2)
                branch = self._conv(channels, layer.channels, same, sides)
                channels += layer.channels
                self.add(layer, branch, Concat())
            elif layer.kind == "relu":
                self.add(layer)
        if sides and recipe.head == "whole" and height == width:
            self.add(Layer("conv"), nn.Conv2d(channels, 5, height, bias=recipe.bias))
            channels = 5
        self.images = bool(sides)
        self.linear = nn.Linear(channels, 3, bias=recipe.bias)

    @staticmethod
    def _conv(before: int, after: int, layer: Layer, sides: Sequence[int]) -> nn.Module:
        if not sides:
            return nn.Linear(before, after, bias=layer.flag)
        return nn.Conv2d(before, after, layer.k, layer.s, layer.p, bias=layer.flag)

    def add(self, layer: Layer, *modules: nn.Module) -> None:
        names = [f"{layer.kind}{len(self.steps)}{letter}" for letter in "ab"[: len(modules)]]
        for name, module in zip(names, modules, strict=True):
            self.add_module(name, module)
        self.steps.append((layer, names))

    def forward(self, x: Tensor) -> Tensor:
        before = "input"
        for layer, names in self.steps:
            a, b = [*(getattr(self, name) for name in names), None, None][:2]
            x = self._step(layer, a, b, x, before)
            before = layer.kind
        if self.images:
            one = x.shape[2:] == (1, 1)
            if self.recipe.head == "adaptive":
                x = F.adaptive_avg_pool2d(x, 1).flatten(1)
            elif self.recipe.head == "whole" and one:
                x = x.flatten(1)
            else:
                x = x.mean(dim=(2, 3))
        return self.linear(x)

    def _step(self, layer: Layer, a: Any, b: Any, x: Tensor, before: str) -> Tensor:
        if layer.kind in ("conv", "norm"):
            return a(x)
        if layer.kind == "pair":
            return a(x) + b(x)
        if layer.kind == "relu":
            # autograd reads the results of ReLU, sums of it, and the net's input
            kept = ("relu", "input", "twice")
            return F.relu(x, inplace=layer.flag and before not in kept)
        if layer.kind == "twice":  # the ReLU's input has another reader
            norm = a(x)
            return norm + F.relu(norm) if layer.flag else F.relu(norm) + norm
        if layer.kind == "residual":
            return a(x) + x if layer.p else x + a(x)
        if layer.kind == "concat":
            return b(x, a(x)) if layer.p else b(a(x), x)
        return (F.max_pool2d if layer.flag else F.avg_pool2d)(x, layer.k)


KINDS = ["conv", "pair", "norm", "relu", "twice", "residual", "concat", "pool"]
LAYERS = st.builds(
    Layer,
    st.sampled_from([*KINDS, "conv", "norm", "relu"]),
    st.sampled_from([1, 1, 3, 3, 5, 2]),
    st.sampled_from([1, 1, 2, 3]),
    st.sampled_from([0, 1, 2]),
    st.integers(1, 9),
    st.booleans(),
).filter(lambda layer: layer.k % 2 == 1 or layer.kind == "pool")
SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.just(8), st.just(8)),
    st.tuples(st.integers(1, 9)),
)
RECIPES = st.builds(
    Recipe,
    SHAPES,
    st.lists(LAYERS, min_size=1, max_size=7),
    st.sampled_from(["mean", "whole", "adaptive"]),
    st.booleans(),
)
"""Drawn nets."""


def make_fleet(
    build: Callable[[], nn.Module],
    members: int,
    dtype: torch.dtype = torch.float64,
    backend: str = "planned",
) -> Fleet:
    """Return a fleet whose parameters and statistics are drawn, all unlike zero and one."""
    fleet = Fleet.initial(build, range(members), dtype=dtype, backend=backend)
    generator = torch.Generator().manual_seed(members)
    state = {}
    for name, tensor in fleet.state().items():
        drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        if name.endswith("running_var"):
            drawn = drawn.abs() + 0.5
        elif tensor.dim() > 2:
            drawn *= tensor[0, 0].numel() ** -0.5
        state[name] = drawn.to(dtype)
    fleet.load(state)
    return fleet


def plain_net(fleet: Fleet, member: int) -> nn.Module:
    """Return a member as a plain module in training mode."""
    net = fleet.build().to(fleet.dtype).train()
    net.load_state_dict({n: t[member] for n, t in fleet.state().items()}, strict=False)
    return net


def draw_masks(fleet: Fleet, density: float, seed: int = 0) -> dict[str, Tensor]:
    """Return masks [M, ...] of all convolutions.

    Members share most of what is kept, so that weights are masked in all of them, and each lacks
    some of it.
    """
    generator = torch.Generator().manual_seed(seed)
    masks = {}
    for name, weight in fleet.prunable().items():
        shape = fleet.by_member(weight).shape
        shared = torch.rand(shape[1:], generator=generator) < density
        own = torch.rand(shape, generator=generator) < 0.8
        masks[name] = shared & own
    return masks


@torch.no_grad()
def set_masks(fleet: Fleet, masks: Mapping[str, Tensor], live: bool = True) -> None:
    """Set weights outside of masks [M, ...] to zero, and let the plan skip them if ``live``."""
    laid = {}
    parameters = dict(fleet.module.named_parameters())
    for name, mask in masks.items():
        laid[name] = torch.empty_like(parameters[name])
        fleet.by_member(laid[name]).copy_(mask)
        parameters[name].mul_(laid[name])
    if live:
        assert fleet.planned
        fleet.planned.set_masks(laid)


def draw_images(fleet: Fleet, batch: int, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Return images [batch, M, ...], each member's its own."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((batch, fleet.members, *shape), generator=generator, dtype=torch.float64)
    return images.to(fleet.dtype)


def draw_factors(outputs: Tensor) -> Tensor:
    """Return the gradients that a backward pass begins with."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(outputs.shape, generator=generator, dtype=torch.float64).to(outputs.dtype)


def pass_once(fleet: Fleet, images: Tensor) -> dict[str, Tensor]:
    """Return outputs, gradients and statistics [M, ...] of one pass in training mode."""
    fleet.module.train()
    outputs = fleet.logits(images)
    outputs.backward(draw_factors(outputs))
    found = {"outputs": outputs.detach()}
    for name, parameter in fleet.module.named_parameters():
        assert parameter.grad is not None
        found[f"grad {name}"] = fleet.by_member(parameter.grad).clone()
        parameter.grad = None
    for name, statistic in fleet.module.named_buffers():
        found[name] = fleet.by_member(statistic).clone()
    return found


def plain_pass(net: nn.Module, images: Tensor, factors: Tensor) -> dict[str, Tensor]:
    """Return what :func:`pass_once` does, for a plain net."""
    outputs = net(images.clone())
    outputs.backward(factors)
    found = {"outputs": outputs.detach()}
    for name, parameter in net.named_parameters():
        gradient = parameter.grad
        found[f"grad {name}"] = torch.zeros_like(parameter) if gradient is None else gradient
    for name, statistic in net.named_buffers():
        if not name.endswith("num_batches_tracked"):
            found[name] = statistic
    return found


def assert_near(have: Tensor, want: Tensor, about: object, tolerance: float = 1e-9) -> None:
    """Assert that two tensors differ by no more than a share of the larger of 1 and their size."""
    assert have.shape == want.shape, about
    scale = max(1.0, want.abs().max().item())
    assert (have - want).abs().max().item() <= tolerance * scale, about
