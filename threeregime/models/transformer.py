"""The Transformer of Vaswani et al. (2017), written so that it can run as a fleet.

Attention is plain products: over a fleet's members they become batched ones, for which PyTorch's
fused attention has no form, and over sentences this short there is nothing for it to gain. There is
no dropout: the paper does not say that it used any, and the members of a fleet would each need
noise of their own that does not depend on their companions.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.data import PAD

BASE, HEAD = 512, 64
"""Features of Transformer-base, and of each of its 8 heads."""


class Attention(nn.Module):
    """Scaled dot-product attention in several heads (Section 3.2 there)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.join = (
            nn.Linear(features, features) for _ in range(4)
        )

    def forward(self, x: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """What each place of ``x`` [batch, t, features] makes of ``memory`` [batch, s, features].

        ``hidden`` is true at places of the memory that are not seen; it broadcasts against
        [batch, heads, t, s].
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(memory), self.value(memory))
        )
        score = query @ key.mT / math.sqrt(query.shape[-1])
        seen = score.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ value
        return self.join(seen.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers place by place, four times as wide between them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., features] to the same shape."""
        return self.down(F.relu(self.up(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then the perceptron; the norm comes after each sum, as in the original."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention, self.perceptron = Attention(features, heads), Perceptron(features)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Map [batch, s, features] to the same shape."""
        x = self.norm1(x + self.attention(x, x, hidden))
        return self.norm2(x + self.perceptron(x))


class DecoderLayer(nn.Module):
    """Self-attention to what came before, attention to the source, then the perceptron."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention, self.source = Attention(features, heads), Attention(features, heads)
        self.perceptron = Perceptron(features)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(features) for _ in range(3))

    def forward(self, x: Tensor, later: Tensor, memory: Tensor, hidden: Tensor) -> Tensor:
        """Map [batch, t, features] to the same shape."""
        x = self.norm1(x + self.attention(x, x, later))
        x = self.norm2(x + self.source(x, memory, hidden))
        return self.norm3(x + self.perceptron(x))


class Transformer(nn.Module):
    """Encoder and decoder of ``depth`` layers each; ``width`` 1 is Transformer-base (Figure 14).

    512 x ``width`` features in heads of 64, at least two heads; sinusoidal positions. The norms
    come after the sums (the original's order, and the paper's "standard Transformer"). One
    embedding serves source, target and output, as in the original. It is left whole by pruning
    and so is the output, as the other nets' last linear layer is: what is pruned are the linear
    layers between.

    Args:
        depth: layers a side.
        width: factor of the features.
        source_length: length of the source in a row.
        pieces: size of the vocabulary.
    """

    prunable: ClassVar[type[nn.Module]] = nn.Linear

    def __init__(self, depth: int, width: float, source_length: int, pieces: int) -> None:
        super().__init__()
        self.source_length = source_length
        heads = max(2, round(BASE * width / HEAD))
        self.features = heads * max(1, round(BASE * width / heads))
        self.embedding = nn.Embedding(pieces, self.features)
        self.encoder = nn.ModuleList(EncoderLayer(self.features, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(DecoderLayer(self.features, heads) for _ in range(depth))
        initialise(self)

    def forward(self, row: Tensor, memory: Tensor | None = None) -> Tensor:
        """Logits of each next piece of the target: [batch, t, pieces].

        A row without a target gives its encoded source, [batch, places, features], which decoding
        hands back so that it is not computed again for every piece.

        Args:
            row: the source, padded to ``source_length``, and the target so far,
                [batch, source_length + t].
            memory: the encoded source, if it is known.
        """
        source, target = row[:, : self.source_length], row[:, self.source_length :]
        hidden = (source == PAD)[:, None, None, :]
        if memory is None:
            memory = self.embed(source)
            for layer in self.encoder:
                memory = layer(memory, hidden)
        if not target.shape[1]:
            return memory
        place = torch.arange(target.shape[1], device=row.device)
        later = place > place[:, None]
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, later, memory, hidden)
        return x @ self.embedding.weight.mT

    def embed(self, pieces: Tensor) -> Tensor:
        """Pieces [batch, t] as vectors of length about one a feature, with their positions."""
        x = self.embedding(pieces) * math.sqrt(self.features)
        return x + positions(pieces.shape[1], self.features, x)


def positions(length: int, features: int, like: Tensor) -> Tensor:
    """Sines and cosines of wavelengths from 2 pi to 10,000 x 2 pi (Section 3.5): [t, features]."""
    place = torch.arange(length, device=like.device, dtype=like.dtype)
    rank = torch.arange(0, features, 2, device=like.device, dtype=like.dtype)
    angle = place[:, None] * torch.exp(rank * (-math.log(1e4) / features))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :features]


def initialise(net: Transformer) -> None:
    """Linear layers by Glorot's rule with biases of 0, embeddings from N(0, 1 / features)."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(net.embedding.weight, 0.0, net.features**-0.5)
