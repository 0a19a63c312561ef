"""DenseNet (Figure 8)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.models.layers import Concat, initialise, scaled_channels


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
        growth, count = scaled_channels(12, width), scaled_channels(16, width)
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
