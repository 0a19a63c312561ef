"""VGG with batch norm, the net of Figure 9."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.models.layers import initialise, scaled_channels


class VGG(nn.Module):
    """VGG with batch norm and widths (64, 128, 256, 512, 512) x ``width`` (Appendix B.1, Figure 9).

    The form for CIFAR: 3x3 convolutions in five groups, max pooling between them, the mean over
    the last 2x2 pixels, one linear layer (scripts). VGG-19 has 20,035,018 parameters; in the
    scripts convolutions have a bias, too, which batch norm cancels. Smaller images are pooled only
    down to 2x2 pixels: on one pixel eight of a kernel's nine weights would see only padding.
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
                channels_in, channels = channels, scaled_channels(base, width)
                conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
                layers += [conv, nn.BatchNorm2d(channels), nn.ReLU()]
            groups.append(nn.Sequential(*layers))
        self.groups = nn.ModuleList(groups)
        self.linear = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map images [batch, channels, h, w] to logits [batch, classes]."""
        for index, group in enumerate(self.groups):
            if index and min(x.shape[2:]) >= 4:
                x = F.max_pool2d(x, 2)
            x = group(x)
        return self.linear(x.mean(dim=(2, 3)))
