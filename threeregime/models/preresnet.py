"""PreResNet: the paper's default net."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.models.layers import initialise, scaled_channels


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
        widths = [scaled_channels(base, width) for base in (16, 32, 64)]
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
