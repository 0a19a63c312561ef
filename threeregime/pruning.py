"""Magnitude pruning of fleets: UniformMP and GlobalMP over every convolution (Section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from threeregime.errors import ThreeRegimeError

Masks = dict[str, Tensor]
"""Kept weights by name, each bool [M, ...], True where a weight stays."""


def masks(weights: Mapping[str, Tensor], methods: Sequence[str], density: Sequence[float]) -> Masks:
    """Masks that keep each member's largest weights.

    Args:
        weights: convolution weights by name, each [M, ...].
        methods: "uniform" or "global", one a member.
        density: kept fraction in (0, 1], one a member.

    Returns:
        Bool masks by name, [M, ...]. UniformMP keeps ``round(density * n)`` of each layer's n
        weights, GlobalMP that many of all; both at least one a layer.

    Raises:
        ThreeRegimeError: a density outside (0, 1] or an unknown method.
    """
    kept = []
    for member, (method, fraction) in enumerate(zip(methods, density, strict=True)):
        if not 0 < fraction <= 1:
            raise ThreeRegimeError(f"density = {fraction} is not allowed: a fraction in (0, 1]")
        if method not in METHODS:
            raise ThreeRegimeError(f"method = {method!r} is not allowed: {', '.join(METHODS)}")
        kept.append(METHODS[method]({n: w[member] for n, w in weights.items()}, fraction))
    return {name: torch.stack([mask[name] for mask in kept]) for name in weights}


def _largest(magnitude: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest entries of a flat tensor; of equals, the first stays."""
    order = magnitude.argsort(descending=True, stable=True)
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def _uniform(weights: dict[str, Tensor], density: float) -> Masks:
    return {
        name: _largest(w.abs().flatten(), max(1, round(density * w.numel()))).view(w.shape)
        for name, w in weights.items()
    }


def _global(weights: dict[str, Tensor], density: float) -> Masks:
    magnitudes = [w.abs().flatten() for w in weights.values()]
    total = sum(len(m) for m in magnitudes)
    # A layer that loses every weight cuts the net in two: its largest weight always stays, and
    # counts towards the density that was asked for.
    flat = torch.cat(magnitudes)
    firsts, start = [], 0
    for magnitude in magnitudes:
        firsts.append(start + int(magnitude.argmax()))
        start += len(magnitude)
    flat[firsts] = torch.inf
    mask = _largest(flat, max(len(weights), round(density * total)))
    parts = mask.split([len(m) for m in magnitudes])
    return {name: p.view(w.shape) for p, (name, w) in zip(parts, weights.items(), strict=True)}


METHODS: dict[str, Callable[[dict[str, Tensor], float], Masks]] = {
    "uniform": _uniform,
    "global": _global,
}
