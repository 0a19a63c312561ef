"""Weights of few bits: what they are, and how nets are trained whose weights are so.

In retraining every weight has a latent value of full precision. The passes forward and backward
are taken at the quantised values; the gradients found there change the latent ones, as if the
rounding between the two were the identity (the straight-through estimator of Bengio et al., 2013).
What is evaluated or measured is the quantised net.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from threeregime.fleet import Fleet

CLIPPING = tuple(2 ** (-power / 2) for power in range(8))
"""Where weights of 2 bits or more may be clipped, as shares of a layer's largest: 1 to 1/11."""


def quantize(weights: Tensor, bits: Tensor) -> Tensor:
    """The weights of one layer in so many bits: integers times a scale, of each member its own.

    One bit is the sign (XNOR-Net; Rastegari et al., 2016). More are the integers from -k to k with
    ``k = 2 ** (bits - 1) - 1``: weights in steps of ``c / k``, rounded, and those beyond c clipped
    to it. Of the c in :data:`CLIPPING` it is the one with the smallest squared error. The scale is
    the least-squares one for the integers q, ``<w, q> / <q, q>``, which is XNOR-Net's mean
    magnitude where they are signs.

    Args:
        weights: [M, ...].
        bits: 1 or more, one a member: [M].

    Returns:
        The quantised weights, [M, ...]; none is finite in a layer where one was not.
    """
    # Levels lie symmetrically: signs come last.
    size = weights.abs().flatten(1)
    most = (2.0 ** (bits - 1) - 1).to(size.dtype)[:, None]  # 0 for one bit
    # A layer of nothing but zeros stays one.
    largest = size.amax(dim=1, keepdim=True).clamp(min=1e-30)
    step = largest / most
    best = torch.full_like(step, -1)
    for share in CLIPPING:
        tried = largest * share / most
        integers = _integers(size, tried, most)
        scale = _scale(size, integers)
        # With this scale the squared error is |w|^2 less |scale * integers|^2.
        explained = scale * torch.linalg.vector_norm(integers, dim=1, keepdim=True)
        step = torch.where(explained > best, tried, step)
        best = torch.maximum(explained, best)
    # The sign alone: every magnitude is one.
    integers = torch.where(most == 0, 1, _integers(size, step, most))
    return torch.copysign((integers * _scale(size, integers)).view(weights.shape), weights)


def _integers(size: Tensor, step: Tensor, most: Tensor) -> Tensor:
    """Magnitudes [M, n] in whole steps, at most so many."""
    return torch.minimum((size / step).round_(), most)


def _scale(size: Tensor, integers: Tensor) -> Tensor:
    """By what integers [M, n] are least far from magnitudes: [M, 1]."""
    squares = torch.linalg.vector_norm(integers, dim=1, keepdim=True).square_().clamp_(min=1)
    return (size * integers).sum(dim=1, keepdim=True) / squares


class Quantizer:
    """Quantises the weights of a fleet for a while.

    They are the weights that pruning would cover. It works in place and without asking the device
    for a number, so that a training step with it can be recorded.

    Args:
        fleet: the nets, which hold latent weights.
        bits: bits a weight, one a member; None: this member stays as it is.
    """

    def __init__(self, fleet: Fleet, bits: Sequence[int | None]) -> None:
        self.fleet = fleet
        self.weights = list(fleet.prunable().values())
        members = {member: own for member, own in enumerate(bits) if own is not None}
        self.members = torch.tensor(list(members), device=fleet.device)
        self.bits = torch.tensor(list(members.values()), device=fleet.device)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the fleet holds quantised weights; after it, the latent ones again."""
        latent = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight in self.weights:
                own = self.fleet.by_member(weight)
                chosen = own.index_select(0, self.members)
                own.index_copy_(0, self.members, quantize(chosen, self.bits))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, latent, strict=True):
                    weight.copy_(value)
