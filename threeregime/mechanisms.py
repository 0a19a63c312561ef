"""How M nets lie side by side: two layouts of a fleet's memory, and the layers that run in them.

A layout exchanges the layers of a plain net for stacked ones. In both, activations are
``[batch, M * channels, height, width]``, channels last in memory, so that batch norm stays batch
norm and everything pointwise stays as it is. They differ in which comes first in that dimension:

- ``grouped``: member by member. A convolution is a grouped convolution. Runs everywhere.
- ``lanes``: channel by channel, the members innermost, one in each lane of the processor's vector
  registers. A convolution is :func:`threeregime.lanes.conv2d`. CPU with a C++ compiler; about
  twice as fast there (``python -m benchmarks.fleet``).
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from threeregime import lanes
from threeregime.errors import ThreeRegimeError

Layers = dict[type[nn.Module], Callable[[nn.Module, int], nn.Module]]


class Mechanism(ABC):
    """A layout: how it stacks layers, and where each member's part of a tensor is."""

    name: ClassVar[str]
    layers: ClassVar[Layers]

    @abstractmethod
    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked parameter or statistic as [M, ...], one slice a member."""

    @abstractmethod
    def pack(self, images: Tensor) -> Tensor:
        """Turn images [batch, M, c, h, w] into the stacked net's input, channels last."""

    @abstractmethod
    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Turn the stacked net's outputs [batch, M * classes] into [M, batch, classes]."""


def _norm(plain: nn.Module, members: int) -> nn.Module:
    assert isinstance(plain, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(plain.num_features * members, plain.eps, plain.momentum)
    # Only a momentum of None needs the count; keeping it would cost an operation a step.
    norm.num_batches_tracked = None
    return norm


def _grouped_conv(plain: nn.Module, members: int) -> nn.Module:
    assert isinstance(plain, nn.Conv2d)
    conv = copy.copy(plain)
    conv._parameters = dict(plain._parameters)
    conv.groups = plain.groups * members
    conv.in_channels, conv.out_channels = plain.in_channels * members, plain.out_channels * members
    conv.weight = nn.Parameter(plain.weight.repeat(members, 1, 1, 1))
    if plain.bias is not None:
        conv.bias = nn.Parameter(plain.bias.repeat(members))
    return conv


class Concat(nn.Module):
    """Activations one after the other along the channels, as in a dense net.

    A layer, where plain nets call ``torch.cat``: members lie in the channels too. In lanes channels
    come first, so that it is right as it is.
    """

    def forward(self, *parts: Tensor) -> Tensor:
        """Map several [batch, channels, height, width] to one with the sum of their channels."""
        return torch.cat(parts, dim=1)


class _GroupedConcat(nn.Module):
    def __init__(self, plain: nn.Module, members: int) -> None:
        super().__init__()
        self.members = members

    def forward(self, *parts: Tensor) -> Tensor:
        # [batch, height, width, M, channels], as they lie in memory
        apart = [part.permute(0, 2, 3, 1).unflatten(3, (self.members, -1)) for part in parts]
        return torch.cat(apart, dim=4).flatten(3).permute(0, 3, 1, 2)


class _GroupedLinear(nn.Module):
    def __init__(self, plain: nn.Module, members: int) -> None:
        super().__init__()
        assert isinstance(plain, nn.Linear)
        self.members = members
        self.weight = nn.Parameter(plain.weight.repeat(members, 1))
        self.bias = nn.Parameter(plain.bias.repeat(members)) if plain.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.members, -1)).transpose(0, 1)
        out = torch.bmm(x, self.weight.unflatten(0, (self.members, -1)).mT)
        out = out.transpose(0, 1).flatten(1)
        return out if self.bias is None else out + self.bias


class Grouped(Mechanism):
    """Member by member: parameters have M times the rows of the plain layer's."""

    name = "grouped"
    layers: ClassVar[Layers] = {
        nn.Conv2d: _grouped_conv,
        nn.BatchNorm2d: _norm,
        nn.Linear: _GroupedLinear,
        Concat: _GroupedConcat,
    }

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(0, (members, -1))

    def pack(self, images: Tensor) -> Tensor:
        """Lay images side by side."""
        return images.flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Take outputs apart."""
        return outputs.unflatten(1, (members, -1)).transpose(0, 1)


class _LanesConv(nn.Module):
    def __init__(self, plain: nn.Module, members: int) -> None:
        super().__init__()
        assert isinstance(plain, nn.Conv2d)
        if not lanes.available():
            raise ThreeRegimeError(
                "fleets in lanes need a C++ compiler: install g++, or use grouped"
            )
        square = all(len(set(pair)) == 1 for pair in (plain.stride, plain.kernel_size))
        padding = plain.padding if isinstance(plain.padding, tuple) else (-1, -2)
        if plain.groups > 1 or plain.dilation != (1, 1) or not square or len(set(padding)) > 1:
            raise ThreeRegimeError(
                "convolutions with groups, dilation or unequal sides: use grouped"
            )
        self.members, self.stride, self.padding = members, plain.stride[0], int(padding[0])
        self.weight = nn.Parameter(plain.weight.repeat(1, 1, 1, members))
        self.bias = nn.Parameter(plain.bias.repeat(members)) if plain.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.unflatten(-1, (-1, self.members))
        out = lanes.conv2d(x, weight, self.stride, self.padding)
        return out if self.bias is None else out + self.bias[:, None, None]


class _LanesLinear(nn.Module):
    def __init__(self, plain: nn.Module, members: int) -> None:
        super().__init__()
        assert isinstance(plain, nn.Linear)
        self.members = members
        self.weight = nn.Parameter(plain.weight.repeat(1, members))
        self.bias = nn.Parameter(plain.bias.repeat(members)) if plain.bias is not None else None

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (-1, self.members))  # [batch, features, M]
        weight = self.weight.unflatten(1, (-1, self.members))  # [outputs, features, M]
        out = torch.bmm(x.permute(2, 0, 1), weight.permute(2, 1, 0)).permute(1, 2, 0).flatten(1)
        return out if self.bias is None else out + self.bias


class Lanes(Mechanism):
    """Members innermost: the last dimension of every parameter is M times the plain layer's."""

    name = "lanes"
    layers: ClassVar[Layers] = {
        nn.Conv2d: _LanesConv,
        nn.BatchNorm2d: _norm,
        nn.Linear: _LanesLinear,
    }

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(-1, (-1, members)).movedim(-1, 0)

    def pack(self, images: Tensor) -> Tensor:
        """Lay images side by side."""
        return images.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Take outputs apart."""
        return outputs.unflatten(1, (-1, members)).permute(2, 0, 1)


FEWEST_LANES = 8
MECHANISMS: dict[str, Mechanism] = {"grouped": Grouped(), "lanes": Lanes()}


def choose(device: torch.device | str, members: int) -> str:
    """The faster layout for a fleet of a size: lanes on a CPU with a C++ compiler, else grouped.

    Fewer members than half a vector register leave most lanes empty.
    """
    fills = members >= FEWEST_LANES and torch.device(device).type == "cpu"
    return "lanes" if fills and lanes.available() else "grouped"


def stack(plain: nn.Module, members: int, mechanism: Mechanism) -> nn.Module:
    """Return a module that runs ``members`` copies of ``plain`` at once.

    Raises:
        ThreeRegimeError: a layer with parameters of its own has no stacked form.
    """
    if type(plain) in mechanism.layers:
        return mechanism.layers[type(plain)](plain, members)
    if next(plain.parameters(recurse=False), None) is not None:
        raise ThreeRegimeError(
            f"a layer of type {type(plain).__name__} cannot run in a fleet: give it a stacked form "
            "in threeregime/mechanisms.py"
        )
    stacked = copy.copy(plain)
    stacked._modules = {
        name: child if child is None else stack(child, members, mechanism)
        for name, child in plain._modules.items()
    }
    return stacked
