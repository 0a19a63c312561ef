"""Quantization of weights to a few bits, and training of nets with quantized weights.

In retraining every weight has a latent value of full precision. The forward and backward passes use
the quantized values; their gradients change the latent ones, as if the rounding between the two
were the identity (the straight-through estimator of Bengio et al., 2013). Errors and metrics are
those of the quantized net.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from threeregime.fleet import Fleet

CLIPPING = tuple(2 ** (-power / 2) for power in range(8))
"""Clipping thresholds to try for 2 bits or more, as shares of a layer's largest: 1 to 1/11."""


def quantize(weights: Tensor, bits: Tensor) -> Tensor:
    """Return one layer's weights in a few bits: integers times one scale per member.

    One bit is the sign (XNOR-Net; Rastegari et al., 2016). More bits are the integers from -k to k
    with ``k = 2 ** (bits - 1) - 1``: weights are clipped to a threshold c and rounded in steps of
    ``c / k``, with the c in :data:`CLIPPING` that has the smallest squared error. The scale is the
    least-squares one for the integers q, ``<w, q> / <q, q>``, which is XNOR-Net's mean magnitude
    where they are signs.

    Args:
        weights: weights of all members, [M, ...].
        bits: 1 or more per member, [M].

    Returns:
        The quantized weights, [M, ...]; not finite in a member with a weight that is not finite.
    """
    # Levels are symmetric: signs are put back at the end.
    magnitudes = weights.abs().flatten(1)
    max_integer = (2.0 ** (bits - 1) - 1).to(magnitudes.dtype)[:, None]  # 0 for one bit
    # A layer of zeros stays one.
    largest = magnitudes.amax(dim=1, keepdim=True).clamp(min=1e-30)
    step = largest / max_integer
    best = torch.full_like(step, -1)
    for share in CLIPPING:
        candidate = largest * share / max_integer
        integers = _integers(magnitudes, candidate, max_integer)
        scale = _scale(magnitudes, integers)
        # With this scale the squared error is |w|^2 minus |scale * integers|^2.
        explained = scale * torch.linalg.vector_norm(integers, dim=1, keepdim=True)
        step = torch.where(explained > best, candidate, step)
        best = torch.maximum(explained, best)
    # For one bit every magnitude is one.
    integers = torch.where(max_integer == 0, 1, _integers(magnitudes, step, max_integer))
    levels = integers * _scale(magnitudes, integers)
    return torch.copysign(levels.view(weights.shape), weights)


def _integers(magnitudes: Tensor, step: Tensor, max_integer: Tensor) -> Tensor:
    """Return magnitudes [M, n] rounded to steps and clipped."""
    return torch.minimum((magnitudes / step).round_(), max_integer)


def _scale(magnitudes: Tensor, integers: Tensor) -> Tensor:
    """Return the least-squares scale [M, 1] from integers [M, n] to magnitudes."""
    squares = torch.linalg.vector_norm(integers, dim=1, keepdim=True).square_().clamp_(min=1)
    return (magnitudes * integers).sum(dim=1, keepdim=True) / squares


class Quantizer:
    """Quantizes the prunable weights of a fleet in place for the length of a context.

    Nothing waits for the device, so that a training step with it can be recorded as a CUDA graph.

    Args:
        fleet: the nets, which hold latent weights.
        bits: bits of a weight, one entry per member; None leaves a member as it is.
    """

    def __init__(self, fleet: Fleet, bits: Sequence[int | None]) -> None:
        self.fleet = fleet
        self.weights = list(fleet.prunable().values())
        members = {member: count for member, count in enumerate(bits) if count is not None}
        self.members = torch.tensor(list(members), device=fleet.device)
        self.bits = torch.tensor(list(members.values()), device=fleet.device)

    @contextmanager
    def quantized_weights(self) -> Iterator[None]:
        """Return a context in which the fleet holds quantized weights, and latent ones after it."""
        latent = [weight.detach().clone() for weight in self.weights]
        with torch.no_grad():
            for weight in self.weights:
                by_member = self.fleet.by_member(weight)
                values = by_member.index_select(0, self.members)
                by_member.index_copy_(0, self.members, quantize(values, self.bits))
        try:
            yield
        finally:
            with torch.no_grad():
                for weight, value in zip(self.weights, latent, strict=True):
                    weight.copy_(value)
