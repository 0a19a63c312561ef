"""Optimizers of a fleet: those of torch.optim over stacked weights, their state, and SAM.

They are elementwise, so one optimizer over stacked weights equals one optimizer for each net.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from threeregime.fleet import Fleet, PlannedPass, State
from threeregime.kernels import LossGradient, Sgd
from threeregime.protocol import Training


def make_optimizer(
    training: Training, parameters: Iterable[nn.Parameter], rate: Tensor, recorded: bool
) -> torch.optim.Optimizer:
    """Return the optimizer of a recipe.

    ``rate`` is a tensor that is read at each step; ``recorded`` tells whether steps are recorded as
    a CUDA graph.
    """
    decay = training.weight_decay
    if training.optimizer == "adam":
        return torch.optim.Adam(
            parameters, rate, weight_decay=decay, fused=True, capturable=recorded
        )
    return torch.optim.SGD(parameters, rate, training.momentum, weight_decay=decay, fused=True)


class PlannedSgd:
    """Stochastic gradient descent as part of a planned pass; its state is that of torch.optim.SGD.

    Args:
        planned: the pass of a fleet.
        training: learning rate, momentum and weight decay.

    Attributes:
        state: momentum by parameter.
    """

    def __init__(self, planned: PlannedPass, training: Training) -> None:
        self.planned, self.training = planned, training
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def step(self, images: Tensor, gradient: LossGradient, rate: float) -> None:
        """Make one step of every member.

        Args:
            images: [batch, M, C, H, W].
            gradient: function that returns the gradient of the loss of some members.
            rate: learning rate.
        """
        plan = self.planned.plan(images.shape[2:], images.dtype)
        momentum = self.training.momentum
        buffers = [self._buffer(p) for p in plan.parameters] if momentum else []
        plan.descend(images, gradient, Sgd(rate, momentum, self.training.weight_decay), buffers)

    def _buffer(self, parameter: Tensor) -> Tensor:
        """Return the momentum of a parameter, zero before the first step."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)
        return state["momentum_buffer"]


Optimizer = torch.optim.Optimizer | PlannedSgd


def optimizer_state(fleet: Fleet, optimizer: Optimizer) -> State:
    """Return the optimizer state by name, [M, ...], or [] where members share it."""
    state = {}
    for name, parameter in fleet.module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                values = fleet.by_member(value) if value.dim() else value
                values = values.clone(memory_format=torch.contiguous_format)
                state[f"optimizer/{key}/{name}"] = values
    return state


def load_optimizer_state(fleet: Fleet, optimizer: Optimizer, state: State) -> None:
    """Load a state that :func:`optimizer_state` returned; other entries are ignored."""
    parameters = dict(fleet.module.named_parameters())
    for path, value in state.items():
        if not path.startswith("optimizer/"):
            continue
        _, key, name = path.split("/", 2)
        parameter = parameters[name]
        buffer = fleet.as_stacked(value, parameter) if value.dim() else value.clone()
        optimizer.state[parameter][key] = buffer


def sam_gradients(fleet: Fleet, rho: float, backward: Callable[[], None]) -> None:
    """Compute the gradients of sharpness-aware minimization (Foret et al., 2021, Equation 2).

    They are the gradients after a step of length ``rho`` along each member's own gradient, whose
    norm is over all of its parameters; the weights do not change. Statistics of batch norm are
    those of the first pass (scripts).

    Args:
        fleet: the nets.
        rho: radius, not adapted to the size of the weights.
        backward: function that computes the gradients at the current weights.
    """
    backward()
    parameters = [p for p in fleet.module.parameters() if p.grad is not None]
    weights = [p.detach().clone() for p in parameters]
    gradients = [fleet.by_member(p.grad) for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(dim=1) for g in gradients])
    length = rho / (squares.sum(dim=0).sqrt() + 1e-12)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            factor = length.view(-1, *[1] * (gradient.dim() - 1))
            fleet.by_member(parameter).add_(gradient * factor)
    with fleet.batch_norm_momentum(0.0):
        backward()
    with torch.no_grad():
        for parameter, weight in zip(parameters, weights, strict=True):
            parameter.copy_(weight)
