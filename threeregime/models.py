"""The paper's nets as plain modules; :mod:`threeregime.fleet` turns any of them into a fleet.

A net that is to run as a fleet is made of layers that treat channels alike (convolution, batch
norm, linear, pooling over space, pointwise functions) and never mixes channels by hand. To add one:
write the module and give it an entry in :data:`NETS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from threeregime.data import Dataset
    from threeregime.protocol import Net


class PreActBlock(nn.Module):
    """Pre-activation residual block: norm, ReLU, 3x3 convolution, twice (He et al., 2016).

    Where the shape changes the shortcut is a 1x1 convolution of the raw input, without norm.
    """

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = stride == 1 and channels_in == channels
        self.shortcut = (
            nn.Identity() if same else nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, h, w] to [batch, channels, h / stride, w / stride]."""
        out = self.conv1(F.relu(self.norm1(x)))
        out = self.conv2(F.relu(self.norm2(out)))
        return out + self.shortcut(x)


class PreResNet(nn.Module):
    """PreResNet of depth 6n+2 with widths (16, 32, 64) x ``width`` (paper, Appendix B.1)."""

    def __init__(self, depth: int, width: float, channels: int, classes: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        widths = [max(1, round(base * width)) for base in (16, 32, 64)]
        self.conv = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        before = [widths[0], *widths[:-1]]
        self.stages = nn.Sequential(
            *(
                PreActBlock(
                    before[stage] if block == 0 else widths[stage],
                    widths[stage],
                    stride=2 if block == 0 and stage > 0 else 1,
                )
                for stage in range(3)
                for block in range(blocks)
            )
        )
        self.norm = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, channels, h, w] to logits [batch, classes]."""
        x = F.relu(self.norm(self.stages(self.conv(x))))
        return self.linear(x.mean(dim=(2, 3)))


def initialise(net: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k k out)), as the authors' scripts do."""
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels
            nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / fan_out))


def _six_n_plus_two(depth: int) -> None:
    if depth < 8 or (depth - 2) % 6:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a PreResNet has 6n+2 layers (8, 14, 20, ...)"
        )


@dataclass(frozen=True)
class NetKind:
    """How to build one kind of net: ``build(depth, width, channels, classes)``."""

    build: Callable[[int, float, int, int], nn.Module]
    check_depth: Callable[[int], None]


NETS: dict[str, NetKind] = {
    "preresnet": NetKind(PreResNet, _six_n_plus_two),
}


def builder(net: Net, data: Dataset) -> Callable[[], nn.Module]:
    """Function that builds one plain net of a protocol for a data set."""
    kind = NETS[net.name]
    return lambda: kind.build(net.depth, net.width, data.channels, data.classes)
