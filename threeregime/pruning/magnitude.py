"""Magnitude pruning of fleets: UniformMP and GlobalMP (Section 2.3 of the paper), and N:M sparsity.

N:M sparsity keeps the N largest of each M neighbouring weights, as the sparse matrix products of
hardware require (2:4 in Mishra et al., 2021). Neighbours feed the same output channel and follow
each other by input channel, then by the kernel's column and row: the order in memory with channels
last. Where the inputs of a channel are no multiple of M, its last group is shorter and keeps the
same share, rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime._fields import require
from threeregime.fleet import Fleet

Masks = dict[str, Tensor]
"""Masks of weights by name, each bool [M, ...], True where a weight stays."""


def prune_masks(
    fleet: Fleet,
    density: float | Sequence[float],
    method: str | Sequence[str] = "uniform",
    group: int | Sequence[int | None] | None = None,
    names: Collection[str] | None = None,
) -> Masks:
    """Return masks that keep the largest weights of every member of a fleet.

    UniformMP keeps ``round(density * n)`` of each layer's n weights, GlobalMP as many of all
    layers together, N:M as many of each group of n; all keep at least one per layer or group.
    "quantization" keeps every weight.

    Args:
        fleet: the nets.
        density: fraction of weights to keep, in (0, 1], one for all members or one each.
        method: an entry of :data:`METHODS`, one for all members or one each.
        group: group size of "n:m", one for all members or one each; else None.
        names: names of the weights to prune; None: :meth:`threeregime.fleet.fleet.Fleet.prunable`.

    Returns:
        Bool masks by name, [M, ...], True where a weight stays.

    Raises:
        ThreeRegimeError: a density outside (0, 1], an unknown method, or N:M without a group.
    """
    count = fleet.members
    names = fleet.prunable() if names is None else names
    weights = {
        name: fleet.by_member(weight)
        for name, weight in fleet.module.named_parameters()
        if name in names
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
    """Return masks of weights [M, outputs, inputs, ...] by name; see :func:`prune_masks`."""
    members = []
    for member, (method, density, group) in enumerate(
        zip(methods, densities, groups or [None] * len(methods), strict=True)
    ):
        require(0 < density <= 1, "density", density, "a fraction in (0, 1]")
        require(method in METHODS, "method", method, ", ".join(METHODS))
        require(method != "n:m" or bool(group), "group", group, "2 or more weights with n:m")
        net = {name: weight[member] for name, weight in weights.items()}
        members.append(METHODS[method](net, density, group or 1))
    return {name: torch.stack([masks[name] for masks in members]) for name in weights}


def _largest(magnitudes: Tensor, count: int) -> Tensor:
    """Return the mask of the ``count`` largest entries of a flat tensor, the first among equals."""
    order = magnitudes.argsort(descending=True, stable=True)
    mask = torch.zeros_like(magnitudes, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def _uniform(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    return {
        name: _largest(w.abs().flatten(), max(1, round(density * w.numel()))).view(w.shape)
        for name, w in weights.items()
    }


def _global(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    layers = [w.abs().flatten() for w in weights.values()]
    # A layer without weights would cut the net in two: its largest weight always stays, and counts
    # towards the density.
    ranks = [layer.index_fill(0, layer.argmax(), torch.inf) for layer in layers]
    count = max(len(layers), round(density * sum(len(layer) for layer in layers)))
    masks = _largest(torch.cat(ranks), count).split([len(layer) for layer in layers])
    return {name: m.view(w.shape) for m, (name, w) in zip(masks, weights.items(), strict=True)}


def _n_of_m(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    count = max(1, round(density * group))
    return {name: _largest_of_groups(w.abs(), count, group) for name, w in weights.items()}


def _largest_of_groups(magnitudes: Tensor, count: int, group: int) -> Tensor:
    """Return the mask of the ``count`` largest entries of each group in [outputs, inputs, ...]."""
    channels_last = magnitudes.movedim(1, -1)
    rows = channels_last.flatten(1)
    # The padding of the last group is smaller than any weight: it ranks last.
    groups = F.pad(rows, (0, -rows.shape[1] % group), value=-1.0).unflatten(1, (-1, group))
    rank = groups.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    counts = torch.full((groups.shape[1], 1), count, device=rows.device)
    remainder = rows.shape[1] % group
    if remainder:
        counts[-1] = -(-count * remainder // group)
    mask = (rank < counts).flatten(1)[:, : rows.shape[1]]
    return mask.unflatten(1, channels_last.shape[1:]).movedim(-1, 1)


def _all(weights: dict[str, Tensor], density: float, group: int) -> Masks:
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}


METHODS: dict[str, Callable[[dict[str, Tensor], float, int], Masks]] = {
    "uniform": _uniform,
    "global": _global,
    "n:m": _n_of_m,
    "quantization": _all,
}
"""Functions from one net's weights, the density and the group size to masks."""
