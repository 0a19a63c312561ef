"""Optimizers of a fleet: one of torch.optim over stacked weights, and SAM's step around it.

All are elementwise, so the stock optimizer over stacked weights is the stock optimizer of each net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from threeregime.fleet import Fleet, State
from threeregime.protocol import Training


def make_optimizer(
    training: Training, parameters: Iterable[nn.Parameter], rate: Tensor, recorded: bool
) -> torch.optim.Optimizer:
    """The protocol's optimizer.

    Args:
        training: which, and its constants.
        parameters: what it changes.
        rate: learning rate, a tensor that is read anew at each step.
        recorded: whether steps are recorded as a CUDA graph.
    """
    if training.optimizer == "adam":
        return torch.optim.Adam(
            parameters, lr=rate, weight_decay=training.weight_decay, fused=True, capturable=recorded
        )
    return torch.optim.SGD(
        parameters,
        lr=rate,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
        fused=True,
    )


def optimizer_state(fleet: Fleet, optimizer: torch.optim.Optimizer) -> State:
    """What an optimizer remembers, each [M, ...], or without a dimension where members share it."""
    state = {}
    for name, parameter in fleet.module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                by_member = fleet.by_member(value) if value.dim() else value
                copy = by_member.clone(memory_format=torch.contiguous_format)
                state[f"optimizer/{key}/{name}"] = copy
    return state


def load_optimizer_state(fleet: Fleet, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Give an optimizer back what :func:`optimizer_state` returned."""
    for name, parameter in fleet.module.named_parameters():
        own = optimizer.state[parameter]
        for path, value in state.items():
            if path.startswith("optimizer/") and path.split("/", 2)[2] == name:
                if value.dim():
                    # As it lies in memory under this fleet's backend.
                    buffer = torch.empty_like(parameter, requires_grad=False)
                    fleet.by_member(buffer).copy_(value)
                else:
                    buffer = value.clone()
                own[path.split("/", 2)[1]] = buffer


def sam_gradients(fleet: Fleet, rho: float, backward: Callable[[], None]) -> None:
    """Leave the gradients of sharpness-aware minimization (Foret et al., 2021, Equation 2).

    Each member's weights move by ``rho`` along its own gradient, whose norm is over all of its
    parameters; the gradients there are what is left, the weights are put back. Statistics of batch
    norm are those of the first pass (scripts).

    Args:
        fleet: the nets.
        rho: radius, not adapted to the weights' size.
        backward: computes gradients at the weights as they are, from none.
    """
    backward()
    parameters = [p for p in fleet.module.parameters() if p.grad is not None]
    weights = [p.detach().clone() for p in parameters]
    gradients = [fleet.by_member(p.grad) for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients])
    reach = rho / (squares.sum(dim=0).sqrt() + 1e-12)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            along = reach.view(-1, *[1] * (gradient.dim() - 1))
            fleet.by_member(parameter).add_(gradient * along)
    norms = fleet.batch_norms()
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    backward()
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
