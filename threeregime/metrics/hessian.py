"""The curvature of the training loss at a net: the Hessian's trace and its leading eigenvalue.

These are the local metrics of the paper's Appendix A.2, which do not separate its regimes. The
Hessian is never formed: all that is computed are its products with vectors, one of each member at
once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from threeregime.data import Task, stream_seed
from threeregime.fleet import Fleet
from threeregime.pruning import Masks

SAMPLES = 256
"""Maximal number of training examples that the Hessian is computed on."""
BATCH = 64
"""Number of examples in a graph: one to be differentiated twice is large."""

Vector = list[Tensor]
"""One vector per member, in the shape and layout of the fleet's parameters."""


@dataclass(frozen=True)
class Curvature:
    """Curvature of each member: float64 tensors [M] on the CPU.

    ``trace`` is the sum of all eigenvalues, ``top`` the one of largest magnitude.
    """

    trace: Tensor
    top: Tensor


class Hessian:
    """Products of the Hessians of M nets with vectors.

    The loss is a net's mean cross-entropy on the first training examples, un-augmented, in
    evaluation mode. The directions of pruned weights are projected out. No member's loss depends
    on another's weights: one double backward pass of the sum gives the products of all members.

    Args:
        fleet: the nets; they do not change.
        masks: masks of the weights that were not pruned, each bool [M, ...].
        task: the data; its training split is used.
        samples: number of examples, at most all.
    """

    def __init__(self, fleet: Fleet, masks: Masks, task: Task, samples: int) -> None:
        # A planned pass can be differentiated only once.
        backend = "grouped" if fleet.backend.name == "planned" else fleet.backend.name
        self.fleet = Fleet(fleet.build, fleet.state(), fleet.device, fleet.dtype, backend)
        self.fleet.module.eval()
        parameters = dict(self.fleet.module.named_parameters())
        self.parameters = list(parameters.values())
        self.masks = [
            self.fleet.as_stacked(masks[name], like) if name in masks else torch.ones_like(like)
            for name, like in parameters.items()
        ]
        self.task = task
        self.batches = [
            batch
            for inputs, targets in task.evaluation_batches(True, fleet.dtype, samples)
            for batch in zip(inputs.split(BATCH), targets.split(BATCH), strict=True)
        ]
        self.examples = sum(len(inputs) for inputs, _ in self.batches)

    def random(self, number: int) -> Vector:
        """Return random signs (Rademacher), zero at pruned weights; equal for all members."""
        generator = torch.Generator().manual_seed(stream_seed("hessian", number))
        vector = []
        for parameter, mask in zip(self.parameters, self.masks, strict=True):
            shape = self.fleet.by_member(parameter).shape[1:]
            signs = 2 * torch.randint(2, shape, generator=generator) - 1
            vector.append(self.fleet.as_stacked(signs, parameter) * mask)
        return vector

    def times(self, vector: Vector) -> Vector:
        """Return the product of each member's Hessian with its vector."""
        total = [torch.zeros_like(parameter) for parameter in self.parameters]
        for inputs, targets in self.batches:
            logits = self.fleet.logits(self.fleet.broadcast(inputs))
            targets = targets.expand(self.fleet.members, *targets.shape)
            loss = self.task.loss(logits, targets, 0.0) * (len(inputs) / self.examples)
            gradient = torch.autograd.grad(loss, self.parameters, create_graph=True)
            slopes = [(g * v).sum() for g, v in zip(gradient, vector, strict=True)]
            slope = torch.stack(slopes).sum()
            product = torch.autograd.grad(slope, self.parameters, materialize_grads=True)
            torch._foreach_add_(total, product)
        return [t * mask for t, mask in zip(total, self.masks, strict=True)]

    def dot(self, one: Vector, other: Vector) -> Tensor:
        """Return the inner product of each member's two vectors: float64 [M]."""
        parts = [
            self.fleet.by_member(a.double() * b.double()).flatten(1).sum(dim=1)
            for a, b in zip(one, other, strict=True)
        ]
        return torch.stack(parts).sum(dim=0)

    def unit(self, vector: Vector) -> Vector:
        """Return each member's vector at length 1; a vector of zeros stays."""
        length = self.dot(vector, vector).sqrt().clamp(min=torch.finfo(self.fleet.dtype).tiny)
        parts = [(part, self.fleet.by_member(part)) for part in vector]
        return [
            self.fleet.as_stacked(
                values / length.to(values.dtype).view(-1, *[1] * (values.dim() - 1)), part
            )
            for part, values in parts
        ]

    def trace(self, vectors: int) -> Tensor:
        """Return Hutchinson's estimate (1990) of each trace, the mean of v'Hv: [M].

        Its variance is ``2 / vectors`` times the sum of squares off the diagonal.
        """
        signs = (self.random(number) for number in range(vectors))
        return torch.stack([self.dot(v, self.times(v)) for v in signs]).mean(dim=0)

    def top(self, iterations: int) -> Tensor:
        """Return the eigenvalue of largest magnitude by power iteration: [M].

        It is the Rayleigh quotient of the last iteration.
        """
        vector = self.unit(self.random(0))
        for _ in range(iterations):
            product = self.times(vector)
            value = self.dot(vector, product)
            vector = self.unit(product)
        return value


def measure_curvature(
    fleet: Fleet, masks: Masks, task: Task, vectors: int, samples: int
) -> Curvature:
    """Measure the trace and the leading eigenvalue of every member's Hessian (Appendix A.2).

    Args:
        fleet: the retrained nets.
        masks: masks of the weights that were not pruned, each bool [M, ...].
        task: the data; its training split is used.
        vectors: number of random vectors for the trace, and of iterations for the eigenvalue.
        samples: number of training examples, at most :data:`SAMPLES`.

    Returns:
        Float64 tensors on the CPU, NaN for members that diverged.
    """
    hessian = Hessian(fleet, masks, task, min(samples, SAMPLES))
    diverged = ~fleet.finite_members().cpu()
    trace, top = (part(vectors).cpu() for part in (hessian.trace, hessian.top))
    return Curvature(trace.masked_fill(diverged, torch.nan), top.masked_fill(diverged, torch.nan))
