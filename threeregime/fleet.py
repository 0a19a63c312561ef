"""The fleet: M nets of one architecture whose parameters lie side by side and run as one program.

A fleet is made from a plain module by exchanging its layers for stacked ones. All of them keep one
convention: a fleet's activations are ``[batch, M * channels, ...]``, member by member, so that a
convolution becomes a grouped convolution, batch norm is batch norm, and everything pointwise
is as it was. Every parameter and statistic has M times the rows of the plain layer's, so each is
also a ``[M, ...]`` tensor, one slice a member, under the plain module's own name.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from threeregime.errors import ThreeRegimeError

State = dict[str, Tensor]
"""Parameters and statistics of a fleet by plain name, each [M, ...]."""


class StackedLinear(nn.Module):
    """M linear layers: [batch, M * features] to [batch, M * outputs]."""

    def __init__(self, plain: nn.Linear, members: int) -> None:
        super().__init__()
        self.members = members
        self.weight = nn.Parameter(plain.weight.repeat(members, 1))
        self.bias = nn.Parameter(plain.bias.repeat(members)) if plain.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply member m's weights to member m's features."""
        x = x.unflatten(1, (self.members, -1)).transpose(0, 1)
        out = torch.bmm(x, self.weight.unflatten(0, (self.members, -1)).mT)
        out = out.transpose(0, 1).flatten(1)
        return out if self.bias is None else out + self.bias


def _stack_conv(plain: nn.Module, members: int) -> nn.Module:
    assert isinstance(plain, nn.Conv2d)
    conv = copy.copy(plain)
    conv._parameters = dict(plain._parameters)
    conv.groups = plain.groups * members
    conv.in_channels, conv.out_channels = plain.in_channels * members, plain.out_channels * members
    conv.weight = nn.Parameter(plain.weight.repeat(members, 1, 1, 1))
    if plain.bias is not None:
        conv.bias = nn.Parameter(plain.bias.repeat(members))
    return conv


def _stack_norm(plain: nn.Module, members: int) -> nn.Module:
    assert isinstance(plain, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(plain.num_features * members, plain.eps, plain.momentum)
    norm.weight = nn.Parameter(plain.weight.repeat(members))
    norm.bias = nn.Parameter(plain.bias.repeat(members))
    # Only a momentum of None needs the count; keeping it would cost an operation a step.
    norm.num_batches_tracked = None
    return norm


STACKED: dict[type[nn.Module], Callable[[nn.Module, int], nn.Module]] = {
    nn.Conv2d: _stack_conv,
    nn.BatchNorm2d: _stack_norm,
    nn.Linear: lambda plain, members: StackedLinear(plain, members),  # type: ignore[arg-type]
}


def stack(plain: nn.Module, members: int) -> nn.Module:
    """Return a module that runs ``members`` copies of ``plain`` at once.

    Raises:
        ThreeRegimeError: a layer with parameters of its own has no stacked form.
    """
    if type(plain) in STACKED:
        return STACKED[type(plain)](plain, members)
    if next(plain.parameters(recurse=False), None) is not None:
        raise ThreeRegimeError(
            f"a layer of type {type(plain).__name__} cannot run in a fleet: add it to fleet.STACKED"
        )
    stacked = copy.copy(plain)
    stacked._modules = {
        name: child if child is None else stack(child, members)
        for name, child in plain._modules.items()
    }
    return stacked


class Fleet:
    """M nets that run as one.

    Args:
        build: makes one plain net; called with the random state set for each member's seed.
        seeds: one initialisation seed a member.
        device, dtype: where and in what precision the fleet computes.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        plains = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                plains.append(build().state_dict())
        self._make(build, len(plains), device, dtype)
        self.load({name: torch.stack([p[name] for p in plains]) for name in self.names()})

    @classmethod
    def of(
        cls,
        build: Callable[[], nn.Module],
        state: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Fleet:
        """Make a fleet that holds the given state (each tensor [M, ...])."""
        fleet = cls.__new__(cls)
        fleet._make(build, len(next(iter(state.values()))), device, dtype)
        fleet.load(state)
        return fleet

    def _make(
        self,
        build: Callable[[], nn.Module],
        members: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.members, self.dtype = members, dtype
        self.device = torch.device(device)
        self.module = stack(build(), members).to(device=self.device, dtype=dtype)
        self.module.to(memory_format=torch.channels_last)

    def _tensors(self) -> State:
        """Views [M, ...] of every parameter and statistic, by name."""
        named = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {name: t.detach().unflatten(0, (self.members, -1)) for name, t in named.items()}

    def names(self) -> list[str]:
        """Names of all parameters and statistics, as in the plain net."""
        return list(self._tensors())

    def state(self) -> State:
        """Copy of every parameter and statistic, each [M, ...]."""
        return {name: tensor.clone() for name, tensor in self._tensors().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy parameters and statistics, each [M, ...], into the fleet, by name."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def convolutions(self) -> dict[str, nn.Parameter]:
        """The weights that pruning may remove, by plain name, each [M * out, in, k, k]."""
        layers = self.module.named_modules()
        return {f"{name}.weight": m.weight for name, m in layers if isinstance(m, nn.Conv2d)}

    def norms(self) -> list[nn.BatchNorm2d]:
        """The batch norm layers."""
        return [m for m in self.module.modules() if isinstance(m, nn.BatchNorm2d)]

    def logits(self, images: Tensor) -> Tensor:
        """Outputs [M, batch, classes] for images [batch, M, c, h, w], or [batch, c, h, w] for all.

        Gradients flow; the mode (training or evaluation) is the module's.
        """
        if images.dim() == 4:
            images = images[:, None].expand(-1, self.members, -1, -1, -1)
        stacked = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        return self.module(stacked).unflatten(1, (self.members, -1)).transpose(0, 1)

    def finite(self) -> Tensor:
        """Which members hold only finite numbers: bool [M]."""
        sums = [t.flatten(1).isfinite().all(dim=1) for t in self._tensors().values()]
        return torch.stack(sums).all(dim=0)
