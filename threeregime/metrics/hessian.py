"""The curvature of the training loss at a net: the Hessian's trace and its leading eigenvalue.

The local metrics of the paper's Appendix A.2, which do not tell its regimes apart. The Hessian is
never written down: all there is of it are products with vectors, one of each member at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threeregime.data import Task, stream_seed
from threeregime.fleet import Fleet
from threeregime.pruning import Masks

SAMPLES = 256
"""Most training examples that the Hessian is taken on."""
BATCH = 64
"""Examples whose graph is held at a time: one to be differentiated twice is large."""

Vector = list[Tensor]
"""One vector a member, in the shape and layout of the fleet's parameters."""


@dataclass(frozen=True)
class Curvature:
    """What is known of each member's Hessian: float64 tensors [M] on the CPU.

    ``trace`` is the sum of all eigenvalues, ``top`` the one of largest magnitude.
    """

    trace: Tensor
    top: Tensor


class Hessian:
    """The Hessians of M nets, as what they do to vectors.

    Each is that of a net's mean cross-entropy on the first training examples, un-augmented, in
    evaluation mode: the statistics of batch norm stay as they are. It is taken with respect to all
    parameters but the pruned weights, whose directions are projected out. No member's loss depends
    on another's weights, so that one double backward pass of the sum gives every product.

    Args:
        fleet: the nets; left as they are.
        kept: masks of the weights that were not pruned, each bool [M, ...].
        data: the training set.
        samples: number of examples, or all where there are fewer.
    """

    def __init__(self, fleet: Fleet, kept: Masks, data: Task, samples: int) -> None:
        # The lanes' convolution can be differentiated once only.
        backend = "grouped" if fleet.backend.name == "lanes" else fleet.backend.name
        self.fleet = Fleet(fleet.build, fleet.state(), fleet.device, fleet.dtype, backend)
        self.fleet.module.eval()
        named = dict(self.fleet.module.named_parameters())
        self.parameters = list(named.values())
        self.kept = [
            self._laid_out(kept[name], like) if name in kept else torch.ones_like(like)
            for name, like in named.items()
        ]
        self.data = data
        self.batches = [
            batch
            for inputs, truth in data.evaluation_batches(True, fleet.dtype, samples)
            for batch in zip(inputs.split(BATCH), truth.split(BATCH), strict=True)
        ]
        self.examples = sum(len(inputs) for inputs, _ in self.batches)

    def _laid_out(self, values: Tensor, like: Tensor) -> Tensor:
        """Values [M, ...] or [...] of one parameter, as it lies in the fleet's memory."""
        made = torch.empty_like(like, requires_grad=False)
        self.fleet.by_member(made).copy_(values)
        return made

    def random(self, number: int) -> Vector:
        """Signs at random (Rademacher), zero where weights are pruned; equal for all members."""
        generator = torch.Generator().manual_seed(stream_seed("hessian", number))
        made = []
        for parameter, kept in zip(self.parameters, self.kept, strict=True):
            shape = self.fleet.by_member(parameter).shape[1:]
            signs = 2 * torch.randint(2, shape, generator=generator) - 1
            made.append(self._laid_out(signs, parameter) * kept)
        return made

    def times(self, vector: Vector) -> Vector:
        """The products of each member's Hessian with its vector."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for inputs, truth in self.batches:
            logits = self.fleet.logits(self.fleet.broadcast(inputs))
            everyone = truth.expand(self.fleet.members, *truth.shape)
            loss = self.data.loss(logits, everyone, 0.0) * (len(inputs) / self.examples)
            first = torch.autograd.grad(loss, self.parameters, create_graph=True)
            along = torch.stack([(g * v).sum() for g, v in zip(first, vector, strict=True)]).sum()
            second = torch.autograd.grad(along, self.parameters, materialize_grads=True)
            torch._foreach_add_(total, second)
        return [t * kept for t, kept in zip(total, self.kept, strict=True)]

    def dot(self, one: Vector, other: Vector) -> Tensor:
        """Inner product of each member's two vectors: float64 [M]."""
        parts = [
            self.fleet.by_member(a.double() * b.double()).flatten(1).sum(dim=1)
            for a, b in zip(one, other, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)

    def unit(self, vector: Vector) -> Vector:
        """Each member's vector at length 1; one of zeros stays."""
        length = self.dot(vector, vector).sqrt().clamp(min=torch.finfo(self.fleet.dtype).tiny)
        return [
            self._laid_out(own / length.to(own.dtype).view(-1, *[1] * (own.dim() - 1)), part)
            for part, own in ((part, self.fleet.by_member(part)) for part in vector)
        ]

    def trace(self, vectors: int) -> Tensor:
        """Hutchinson's estimate (1990) of each trace, the mean of so many v'Hv: [M].

        Its variance is ``2 / vectors`` times the sum of squares off the diagonal.
        """
        drawn = (self.random(number) for number in range(vectors))
        return torch.stack([self.dot(v, self.times(v)) for v in drawn]).mean(dim=0)

    def top(self, iterations: int) -> Tensor:
        """Eigenvalue of largest magnitude by so many steps of power iteration: [M].

        It is the Rayleigh quotient of the last step.
        """
        vector = self.unit(self.random(0))
        for _ in range(iterations):
            product = self.times(vector)
            value = self.dot(vector, product)
            vector = self.unit(product)
        return value


def measure_curvature(
    fleet: Fleet, kept: Masks, data: Task, vectors: int, samples: int
) -> Curvature:
    """Trace and leading eigenvalue of every member's Hessian (Appendix A.2).

    Args:
        fleet: the retrained nets.
        kept: masks of the weights that were not pruned, each bool [M, ...].
        data: the training set.
        vectors: number of random vectors for the trace, and of iterations for the eigenvalue.
        samples: number of training examples; no more than :data:`SAMPLES` are taken.

    Returns:
        Float64 tensors on the CPU, NaN for members that diverged.
    """
    hessian = Hessian(fleet, kept, data, min(samples, SAMPLES))
    broken = ~fleet.finite_members().cpu()
    found = (part(vectors).cpu() for part in (hessian.trace, hessian.top))
    return Curvature(*(values.masked_fill(broken, torch.nan) for values in found))
