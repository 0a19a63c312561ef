"""The paper's nets as plain modules; :mod:`threeregime.fleet` turns any of them into a fleet.

A net that is to run as a fleet is made of layers that treat channels alike (convolution, batch
norm, linear, pooling over space, pointwise functions), joins channels by
:class:`threeregime.stacked.Concat` and never mixes them by hand. To add one: write the module
and give it an entry in :data:`NETS`. What is pruned are its convolutions, unless it
names other layers as its ``prunable``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.errors import ThreeRegimeError
from threeregime.stacked import Concat
from threeregime.transformer import Transformer

if TYPE_CHECKING:
    from threeregime.protocol import Net
    from threeregime.task import Task


def scaled(channels: int, width: float) -> int:
    """Number of channels of a layer at a width factor: rounded, at least one."""
    return max(1, round(channels * width))


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
        widths = [scaled(base, width) for base in (16, 32, 64)]
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


class DenseLayer(nn.Module):
    """Norm, ReLU, 3x3 convolution; its output joins the channels that came in (Huang et al.)."""

    def __init__(self, channels_in: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels_in)
        self.conv = nn.Conv2d(channels_in, growth, 3, padding=1, bias=False)
        self.concat = Concat()

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels_in, h, w] to [batch, channels_in + growth, h, w]."""
        return self.concat(x, self.conv(F.relu(self.norm(x))))


class Transition(nn.Module):
    """Between dense blocks: norm, ReLU, 1x1 convolution, average pooling; as many channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, channels, h, w] to [batch, channels, h / 2, w / 2]."""
        return F.avg_pool2d(self.conv(F.relu(self.norm(x))), 2)


class DenseNet(nn.Module):
    """DenseNet of depth 3n+4 with growth 12 x ``width`` (paper, Appendix B.1 and Figure 8).

    Three blocks of n layers, no bottleneck, no compression, and 16 x ``width`` channels to begin
    with (Huang et al., 2017, Section 3). DenseNet-40 has 1,019,722 parameters, their 1.0 M; the
    scripts' begins with 24 channels, which makes 1,059,298.
    """

    def __init__(self, depth: int, width: float, channels: int, classes: int) -> None:
        super().__init__()
        growth, count = scaled(12, width), scaled(16, width)
        self.conv = nn.Conv2d(channels, count, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for block in range(3):
            if block:
                layers.append(Transition(count))
            for _ in range((depth - 4) // 3):
                layers.append(DenseLayer(count, growth))
                count += growth
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(count)
        self.linear = nn.Linear(count, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, channels, h, w] to logits [batch, classes]; h and w from 4 up."""
        x = F.relu(self.norm(self.layers(self.conv(x))))
        return self.linear(x.mean(dim=(2, 3)))


class VGG(nn.Module):
    """VGG with batch norm and widths (64, 128, 256, 512, 512) x ``width`` (Appendix B.1, Figure 9).

    As CIFAR has it: 3x3 convolutions in five groups, max pooling between them, the mean over the
    2x2 pixels that are left of 32x32, one linear layer (scripts). VGG-19 has 20,035,018 parameters;
    the scripts' convolutions have a bias, too, which batch norm undoes.

    Of a smaller image less is pooled: as long as two pixels a side are left. On a single pixel
    eight of the nine weights of a kernel would see nothing but padding.
    """

    GROUPS: ClassVar[dict[int, tuple[int, ...]]] = {
        11: (1, 1, 2, 2, 2),
        13: (2, 2, 2, 2, 2),
        16: (2, 2, 3, 3, 3),
        19: (2, 2, 4, 4, 4),
    }

    def __init__(self, depth: int, width: float, channels: int, classes: int) -> None:
        super().__init__()
        groups = []
        for count, base in zip(self.GROUPS[depth], (64, 128, 256, 512, 512), strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                made = scaled(base, width)
                conv = nn.Conv2d(channels, made, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(made), nn.ReLU()]
                channels = made
            groups.append(nn.Sequential(*layers))
        self.groups = nn.ModuleList(groups)
        self.linear = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, channels, h, w] to logits [batch, classes]."""
        for place, group in enumerate(self.groups):
            if place and min(x.shape[2:]) >= 4:
                x = F.max_pool2d(x, 2)
            x = group(x)
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


def _three_n_plus_four(depth: int) -> None:
    if depth < 7 or (depth - 4) % 3:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a DenseNet has 3n+4 layers (7, 10, ..., 40, ...)"
        )


def _one_of_four(depth: int) -> None:
    if depth not in VGG.GROUPS:
        known = ", ".join(map(str, VGG.GROUPS))
        raise ThreeRegimeError(f"net.depth = {depth} is not allowed: a VGG has {known} layers")


def _at_least_one(depth: int) -> None:
    if depth < 1:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a Transformer has 1 or more layers a side"
        )


@dataclass(frozen=True)
class NetKind:
    """How to build one kind of net, and what it reads.

    ``build(depth, width, *sides)``, the sides being :attr:`threeregime.task.Task.sides`.
    """

    build: Callable[[int, float, int, int], nn.Module]
    check_depth: Callable[[int], None]
    reads: str = "images"


NETS: dict[str, NetKind] = {
    "preresnet": NetKind(PreResNet, _six_n_plus_two),
    "densenet": NetKind(DenseNet, _three_n_plus_four),
    "vgg": NetKind(VGG, _one_of_four),
    "transformer": NetKind(Transformer, _at_least_one, reads="sentences"),
}


def builder(net: Net, data: Task) -> Callable[[], nn.Module]:
    """Function that builds one plain net of a protocol for a data set.

    Raises:
        ThreeRegimeError: the net does not read what the data set holds.
    """
    kind = NETS[net.name]
    if kind.reads != data.of:
        known = ", ".join(name for name, other in NETS.items() if other.reads == data.of)
        raise ThreeRegimeError(
            f"net.name = {net.name!r} is not allowed: {data.name} holds {data.of}: {known}"
        )
    return lambda: kind.build(net.depth, net.width, *data.sides)
