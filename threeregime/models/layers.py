"""Layers and initialisation that several nets share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def scaled_channels(channels: int, width: float) -> int:
    """Return the number of channels at a width factor: rounded, at least one."""
    return max(1, round(channels * width))


class Concat(nn.Module):
    """Concatenation of activations along the channels, as in a dense net.

    A layer instead of ``torch.cat``, since the channels of a fleet hold its members too: the
    backend ``grouped`` exchanges it.
    """

    def forward(self, *parts: Tensor) -> Tensor:
        """Map several [batch, channels, h, w] to one with the sum of their channels."""
        return torch.cat(parts, dim=1)


def initialise(net: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k k out)), as the authors' scripts do."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))
