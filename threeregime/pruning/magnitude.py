"""Magnitude pruning of fleets: UniformMP and GlobalMP over every convolution (Section 2.3), N:M.

N:M sparsity keeps the N largest of each M neighbouring weights, as sparse matrix products of
hardware want it (2:4 in Mishra et al., 2021). Neighbours feed the same output channel and follow
each other by input channel, then by the kernel's column and row: in memory with channels last, in
which hardware multiplies. Where a channel's inputs are no multiple of M its last group is shorter,
and keeps the same share of it, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import Fleet

Masks = dict[str, Tensor]
"""Kept weights by name, each bool [M, ...], True where a weight stays."""


def prune_masks(
    fleet: Fleet,
    density: float | Sequence[float],
    method: str | Sequence[str] = "uniform",
    group: int | Sequence[int | None] | None = None,
    names: Collection[str] | None = None,
) -> Masks:
    """Return masks that keep the largest weights of every member of a fleet.

    UniformMP keeps
    ``round(density * n)`` of each layer's n weights, GlobalMP that many of all, N:M that many of
    each group of n; all keep at least one a layer or group. "quantization" keeps every weight.

    Args:
        fleet: the nets.
        density: kept fraction in (0, 1], one for all members or one each.
        method: an entry of :data:`METHODS`, one for all members or one each.
        group: weights in a group under "n:m", one for all members or one each; else None.
        names: of the weights to prune; None: :meth:`threeregime.fleet.fleet.Fleet.prunable`.

    Returns:
        Bool masks by name, [M, ...], True where a weight stays.

    Raises:
        ThreeRegimeError: a density outside (0, 1], an unknown method, or N:M without a group.
    """
    count = fleet.members
    pruned = fleet.prunable() if names is None else names
    weights = {
        name: fleet.by_member(weight)
        for name, weight in fleet.module.named_parameters()
        if name in pruned
    }
    return magnitude_masks(
        weights,
        [method] * count if isinstance(method, str) else method,
        [density] * count if isinstance(density, float | int) else density,
        [group] * count if group is None or isinstance(group, int) else group,
    )


def magnitude_masks(
    weights: Mapping[str, Tensor],
    methods: Sequence[str],
    densities: Sequence[float],
    groups: Sequence[int | None] | None = None,
) -> Masks:
    """Return masks of weights [M, outputs, inputs, ...] by name; as :func:`prune_masks`."""
    recipes = zip(densities, methods, groups or [None] * len(methods), strict=True)
    of_members = [
        _masks_of_one({name: weight[member] for name, weight in weights.items()}, *recipe)
        for member, recipe in enumerate(recipes)
    ]
    return {name: torch.stack([masks[name] for masks in of_members]) for name in weights}


def _masks_of_one(
    weights: dict[str, Tensor], density: float, method: str, group: int | None
) -> Masks:
    if not 0 < density <= 1:
        raise ThreeRegimeError(f"density = {density} is not allowed: a fraction in (0, 1]")
    if method not in METHODS:
        raise ThreeRegimeError(f"method = {method!r} is not allowed: {', '.join(METHODS)}")
    if method == "n:m" and not group:
        raise ThreeRegimeError(f"group = {group} is not allowed: 2 or more weights with n:m")
    return METHODS[method](weights, density, group or 1)


def _largest(magnitude: Tensor, count: int) -> Tensor:
    """Mask of the ``count`` largest entries of a flat tensor; of equals, the first stays."""
    order = magnitude.argsort(descending=True, stable=True)
    mask = torch.zeros_like(magnitude, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def _uniform(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    return {
        name: _largest(w.abs().flatten(), max(1, round(density * w.numel()))).view(w.shape)
        for name, w in weights.items()
    }


def _global(weights: dict[str, Tensor], density: float, group: int) -> Masks:
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


def _n_of_m(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    count = max(1, round(density * group))
    return {name: _largest_of_groups(w.abs(), count, group) for name, w in weights.items()}


def _largest_of_groups(magnitude: Tensor, count: int, group: int) -> Tensor:
    """Mask of the ``count`` largest entries of each group in [outputs, inputs, ...]."""
    channels_last = magnitude.movedim(1, -1)
    rows = channels_last.flatten(1)
    # What fills the last group up is smaller than any weight: it comes last in every order.
    whole = F.pad(rows, (0, -rows.shape[1] % group), value=-1.0).unflatten(1, (-1, group))
    rank = whole.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    counts = torch.full((whole.shape[1], 1), count, device=rows.device)
    shorter = rows.shape[1] % group
    if shorter:
        counts[-1] = -(-count * shorter // group)
    mask = (rank < counts).flatten(1)[:, : rows.shape[1]]
    return mask.unflatten(1, channels_last.shape[1:]).movedim(-1, 1)


def _every(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


METHODS: dict[str, Callable[[dict[str, Tensor], float, int], Masks]] = {
    "uniform": _uniform,
    "global": _global,
    "n:m": _n_of_m,
    "quantization": _every,
}
