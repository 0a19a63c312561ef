"""VGG with batch norm (Figure 9)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.models.layers import initialise, scaled_channels


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
                made = scaled_channels(base, width)
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
