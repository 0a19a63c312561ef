"""Stacked layers: one layer that computes M plain ones, each on its own activations.

:mod:`threeregime.fleet.backends` describes the layout. To give a layer a stacked form, write a
function or class of the plain layer and M, and enter it into :data:`GROUPED`. Its parameters are M
times the plain ones, along the first dimension. A layer without parameters needs a stacked form
only if it mixes members, as :class:`Concat` does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from threeregime.models import Concat

Layers = dict[type[nn.Module], Callable[[nn.Module, int], nn.Module]]


def _norm(plain: nn.Module, members: int) -> nn.Module:
    assert isinstance(plain, nn.BatchNorm2d)
    norm = nn.BatchNorm2d(plain.num_features * members, plain.eps, plain.momentum)
    # Only a momentum of None needs the count, and updating it costs an operation per step.
    norm.num_batches_tracked = None
    return norm


class _GroupedGroupNorm(nn.GroupNorm):
    def __init__(self, plain: nn.Module, members: int) -> None:
        assert isinstance(plain, nn.GroupNorm)
        groups, channels = plain.num_groups * members, plain.num_channels * members
        super().__init__(groups, channels, plain.eps, plain.affine)

    def forward(self, input: Tensor) -> Tensor:
        # With channels last in memory, PyTorch's kernel takes two to three times as long.
        return super().forward(input.contiguous())


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
        # [batch, height, width, M, channels], the order in memory
        split = [part.permute(0, 2, 3, 1).unflatten(3, (self.members, -1)) for part in parts]
        return torch.cat(split, dim=4).flatten(3).permute(0, 3, 1, 2)


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


GROUPED: Layers = {
    nn.Conv2d: _grouped_conv,
    nn.BatchNorm2d: _norm,
    nn.GroupNorm: _GroupedGroupNorm,
    nn.Linear: _GroupedLinear,
    Concat: _GroupedConcat,
}
"""Stacked layers by type of the plain layer, member by member.

:meta hide-value:
"""
