"""Stacked forms of layers: one layer that does what M plain ones do, each on its own activations.

Activations are ``[batch, M * channels, height, width]``, member by member under ``grouped``,
channel by channel under ``lanes`` (:mod:`threeregime.fleet.backends`). To give a layer a stacked
form,
write a function or class of the plain layer and M, and enter it into :data:`GROUPED`,
:data:`LANES`, or both. Its parameters are M times the plain one's: along the first dimension
under ``grouped``, along the last, members innermost, under ``lanes``. A layer without parameters
needs a form only where members must not mix, as in :class:`Concat`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import lanes
from threeregime.models import Concat

Layers = dict[type[nn.Module], Callable[[nn.Module, int], nn.Module]]


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
    weight = plain.weight.detach().repeat(members, 1, 1, 1)
    conv.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last))
    if plain.bias is not None:
        conv.bias = nn.Parameter(plain.bias.repeat(members))
    return conv


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


GROUPED: Layers = {
    nn.Conv2d: _grouped_conv,
    nn.BatchNorm2d: _norm,
    nn.Linear: _GroupedLinear,
    Concat: _GroupedConcat,
}
"""By type of the plain layer: member by member.

:meta hide-value:
"""

LANES: Layers = {nn.Conv2d: _LanesConv, nn.BatchNorm2d: _norm, nn.Linear: _LanesLinear}
"""By type of the plain layer: channel by channel, the members innermost.

:meta hide-value:
"""
