"""Kinds of nets whose best temperature is found by brute force, with their data.

A further kind is an entry of `KINDS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from threeregime.data import TensorSplit, TensorTask, stream_seed
from threeregime.data.digits import clutter, plain

SEEN_TEST_PICTURES = 400
"""Test pictures for the rules; the others are for the truth."""
TEST_PICTURES = 4000


class Block(nn.Module):
    """A block of a Transformer: attention and two linear layers, each after layer norm."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens [batch, tokens, width]."""
        batch, tokens, width = x.shape
        parts = self.attention(self.before(x)).reshape(batch, tokens, 3, self.heads, -1)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
        mixed = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(batch, tokens, width)
        x = x + self.project(mixed)
        return x + self.down(torch.relu(self.up(self.after(x))))


class Encoder(nn.Module):
    """A Transformer encoder whose tokens are the rows of an 8x8 picture."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.embed, self.place = nn.Linear(8, width), nn.Parameter(0.1 * torch.randn(8, width))
        self.block = Block(width, heads=2, hidden=32)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [batch, 10] of pictures [batch, 1, 8, 8]."""
        tokens = self.embed(x.flatten(1, 2)) + self.place
        return self.head(self.norm(self.block(tokens)).mean(dim=1))


def mlp(inputs: int, *widths: int) -> nn.Module:
    """Return a net of linear layers."""
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def cnn(channels: int, norm: str, *widths: int) -> nn.Module:
    """Return a net of 3x3 convolutions; norm is "batch", "group" or "none"."""
    norms: dict[str, Callable[[int], list[nn.Module]]] = {
        "batch": lambda width: [nn.BatchNorm2d(width)],
        "group": lambda width: [nn.GroupNorm(4, width)],
        "none": lambda width: [],
    }
    layers: list[nn.Module] = []
    for number, width in enumerate(widths):
        stride, bias = (2 if number else 1), norm != "batch"
        layers += [nn.Conv2d(channels, width, 3, stride, padding=1, bias=bias), *norms[norm](width)]
        layers += [nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


@dataclass(frozen=True)
class Kind:
    """A kind of net with its data and its training.

    Attributes:
        name: its name.
        role: "train" for the nets that `advise` learns from, else "test".
        build: function that returns an untrained net.
        clutter: whether the digits lie on cluttered, coloured ground.
        noise: share of the training labels that are replaced by random ones.
        optimizer, lr, weight_decay: training, dense and of the pruned net.
        examples: number of training examples.
        normalized: whether inputs have mean 0 and deviation 1, instead of values from 0 to 1.
    """

    name: str
    role: str
    build: Callable[[], nn.Module]
    optimizer: str
    lr: float
    weight_decay: float = 0.0
    clutter: bool = False
    noise: float = 0.0
    examples: int = 1000
    normalized: bool = True

    @property
    def batch_norm(self) -> bool:
        """Whether the net has batch norm."""
        return any(isinstance(layer, nn.BatchNorm2d) for layer in self.build().modules())


KINDS = (
    Kind("MLP", "train", lambda: mlp(64, 100, 100), "adam", 1e-3),
    Kind("MLP, 30 % noise", "train", lambda: mlp(64, 100, 100), "adam", 1e-3, noise=0.3),
    Kind("MLP on clutter, 10 % noise", "train", lambda: mlp(300, 100, 100, 100), "sgd", 0.02,
         clutter=True, noise=0.1),
    Kind("MLP on clutter", "train", lambda: mlp(300, 100), "adam", 1e-3, clutter=True),
    Kind("small MLP, 40 % noise", "train", lambda: mlp(64, 32, 32), "adam", 2e-3, noise=0.4,
         examples=500),
    Kind("CNN, batch norm", "train", lambda: cnn(1, "batch", 8, 16, 16), "sgd", 0.05, 1e-4),
    Kind("CNN, batch norm, 20 % noise", "train", lambda: cnn(1, "batch", 8, 16, 16), "sgd", 0.05,
         1e-4, noise=0.2),
    Kind("CNN, group norm", "train", lambda: cnn(1, "group", 8, 16), "adam", 2e-3),
    Kind("Transformer", "train", Encoder, "adam", 1e-3, examples=400),
    Kind("wide MLP, 15 % noise", "train", lambda: mlp(64, 150, 150), "sgd", 0.05, noise=0.15),
    Kind("MLP, few examples", "train", lambda: mlp(64, 100), "adam", 3e-3, examples=300),
    Kind("CNN on clutter, batch norm", "train", lambda: cnn(3, "batch", 8, 16, 16), "sgd", 0.1,
         1e-4, clutter=True),
    Kind("CNN, group norm, 30 % noise", "train", lambda: cnn(1, "group", 8, 16), "adam", 1e-3,
         noise=0.3),
    Kind("MLP on pixels, 30 % noise", "train", lambda: mlp(64, 100, 100), "adam", 1e-3, noise=0.3,
         normalized=False),
    Kind("MLP on pixels", "train", lambda: mlp(64, 100, 100), "adam", 1e-3, normalized=False),
    Kind("CNN, no norm, 20 % noise", "train", lambda: cnn(1, "none", 8, 16, 16), "adam", 1e-3,
         noise=0.2),
    Kind("CNN, no norm, few examples", "train", lambda: cnn(1, "none", 8, 16), "adam", 3e-3,
         examples=400),
    Kind("Transformer, 30 % noise", "train", lambda: Encoder(24), "adam", 2e-3, noise=0.3,
         examples=700),
    Kind("Transformer on pixels", "train", Encoder, "adam", 3e-3, normalized=False),
    Kind("CNN on clutter, batch norm, 20 % noise", "train", lambda: cnn(3, "batch", 8, 16, 16),
         "sgd", 0.05, clutter=True, noise=0.2),
    Kind("CNN on clutter, group norm", "train", lambda: cnn(3, "group", 8, 16), "adam", 2e-3,
         clutter=True),
    Kind("deep MLP, 20 % noise", "train", lambda: mlp(64, 60, 60, 60, 60), "adam", 1e-3,
         noise=0.2),
    Kind("MLP with weight decay, 30 % noise", "train", lambda: mlp(64, 100, 100), "sgd", 0.05, 5e-3,
         noise=0.3),
    Kind("narrow MLP on pixels, 15 % noise", "train", lambda: mlp(64, 40, 40), "sgd", 0.1,
         noise=0.15, examples=700, normalized=False),
    Kind("MLP on clutter, few examples", "train", lambda: mlp(300, 100, 100), "adam", 1e-3,
         clutter=True, examples=400),
    Kind("CNN on pixels, batch norm, 40 % noise", "train", lambda: cnn(1, "batch", 8, 16), "adam",
         2e-3, noise=0.4, normalized=False),
    Kind("MLP, 5 % noise", "train", lambda: mlp(64, 120), "adam", 2e-3, noise=0.05),
    Kind("MLP, 25 % noise", "train", lambda: mlp(64, 120, 120), "sgd", 0.05, noise=0.25,
         examples=500),
    Kind("MLP on clutter, 20 % noise", "train", lambda: mlp(300, 80, 80, 80), "adam", 1e-3,
         clutter=True, noise=0.2),
    Kind("CNN, batch norm, few examples", "train", lambda: cnn(1, "batch", 8, 16, 16), "sgd", 0.1,
         1e-4, examples=400),
    Kind("CNN on clutter without norm", "train", lambda: cnn(3, "none", 8, 16), "adam", 2e-3,
         clutter=True),
    Kind("CNN without norm", "train", lambda: cnn(1, "none", 12, 24, 24), "sgd", 0.02),
    Kind("Transformer, 20 % noise", "train", Encoder, "adam", 1e-3, noise=0.2, examples=400),
    Kind("deep MLP on pixels, 20 % noise", "test", lambda: mlp(64, 80, 80, 80), "adam", 2e-3,
         noise=0.2, examples=800, normalized=False),
    Kind("CNN, group norm, few examples", "test", lambda: cnn(1, "group", 8, 16, 16), "sgd", 0.05,
         examples=300),
    Kind("CNN, batch norm, 35 % noise", "test", lambda: cnn(1, "batch", 12, 24), "adam", 1e-3,
         noise=0.35),
    Kind("wide Transformer", "test", lambda: Encoder(24), "adam", 2e-3),
    Kind("wide MLP on clutter, 30 % noise", "test", lambda: mlp(300, 200), "sgd", 0.05,
         clutter=True, noise=0.3),
    Kind("CNN on clutter, group norm, 15 % noise", "test", lambda: cnn(3, "group", 8, 16, 16),
         "adam", 2e-3, clutter=True, noise=0.15),
    Kind("CNN on clutter, batch norm, few examples", "test", lambda: cnn(3, "batch", 8, 16), "sgd",
         0.05, clutter=True, examples=500),
    Kind("MLP with weight decay, 10 % noise", "test", lambda: mlp(64, 60, 60), "sgd", 0.05, 2e-3,
         noise=0.1, examples=600),
    Kind("CNN on clutter, no norm, 25 % noise", "test", lambda: cnn(3, "none", 8, 16), "adam", 1e-3,
         clutter=True, noise=0.25),
    Kind("MLP on pixels, few examples", "test", lambda: mlp(64, 100, 100, 100), "sgd", 0.1,
         examples=300, normalized=False),
)  # fmt: skip


def load(kind: Kind) -> tuple[TensorTask, TensorTask]:
    """Return the data of a kind with test pictures for the rules, and with those for the truth."""
    inputs, labels, test_inputs, test_labels = map(
        torch.tensor, (clutter if kind.clutter else plain)()
    )
    inputs, test_inputs = inputs / 255, test_inputs / 255
    if kind.normalized:
        mean, std = inputs.mean((0, 2, 3), keepdim=True), inputs.std((0, 2, 3), keepdim=True)
        inputs, test_inputs = (inputs - mean) / std, (test_inputs - mean) / std
    generator = torch.Generator().manual_seed(stream_seed("known nets", kind.name))
    train = torch.randperm(len(inputs), generator=generator)[: kind.examples]
    test = torch.randperm(len(test_inputs), generator=generator)[:TEST_PICTURES]
    targets = labels[train].long()
    noisy = torch.rand(len(train), generator=generator) < kind.noise
    targets = torch.where(noisy, torch.randint(10, (len(train),), generator=generator), targets)
    split = TensorSplit(inputs[train], targets, len(train))
    seen, unseen = (
        TensorSplit(test_inputs[rows], test_labels[rows].long(), len(rows))
        for rows in (test[:SEEN_TEST_PICTURES], test[SEEN_TEST_PICTURES:])
    )
    return TensorTask(kind.name, split, seen, 10), TensorTask(kind.name, split, unseen, 10)
