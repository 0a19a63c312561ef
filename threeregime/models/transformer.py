"""The Transformer of Vaswani et al. (2017), written so that it can run as a fleet.

Attention is written as matrix products, which become batched ones over the members of a fleet;
PyTorch's fused attention has no such form, and short sentences would gain nothing from it. There is
no dropout: the paper does not mention any, and each member would need a random stream that does not
depend on its companions.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.data import PAD

BASE, HEAD = 512, 64
"""Number of features of Transformer-base, and of each of its 8 heads."""


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al., Section 3.2)."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.join = (
            nn.Linear(features, features) for _ in range(4)
        )

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Attend from ``x`` [batch, t, features] to ``memory`` [batch, s, features].

        ``mask`` is true at positions of the memory to leave out, broadcast to [batch, heads, t, s].
        """
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(memory), self.value(memory))
        )
        scores = query @ key.mT / math.sqrt(query.shape[-1])
        values = scores.masked_fill(mask, -torch.inf).softmax(dim=-1) @ value
        return self.join(values.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Two linear layers at each position, four times as wide between them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., features] to the same shape."""
        return self.down(F.relu(self.up(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then a perceptron; a norm follows each sum, as in the original."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention, self.perceptron = Attention(features, heads), Perceptron(features)
        self.norm1, self.norm2 = nn.LayerNorm(features), nn.LayerNorm(features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, s, features] to the same shape."""
        x = self.norm1(x + self.attention(x, x, mask))
        return self.norm2(x + self.perceptron(x))


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the source, then a perceptron."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.attention, self.source = Attention(features, heads), Attention(features, heads)
        self.perceptron = Perceptron(features)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(features) for _ in range(3))

    def forward(self, x: Tensor, causal_mask: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        """Map [batch, t, features] to the same shape."""
        x = self.norm1(x + self.attention(x, x, causal_mask))
        x = self.norm2(x + self.source(x, memory, mask))
        return self.norm3(x + self.perceptron(x))


class Transformer(nn.Module):
    """Encoder and decoder of ``depth`` layers each; ``width`` 1 is Transformer-base (Figure 14).

    It has 512 x ``width`` features in heads of 64, at least two heads, and sinusoidal positions.
    Norms follow the sums (the original's order, and the paper's "standard Transformer"). Source,
    target and output share one embedding, as in the original. Pruning covers the linear layers
    and leaves the embedding whole, as it leaves the last linear layer of the other nets.

    Args:
        depth: number of layers of the encoder, and of the decoder.
        width: factor of the features.
        source_length: length of the padded source.
        tokens: size of the vocabulary.
    """

    prunable: ClassVar[type[nn.Module]] = nn.Linear

    def __init__(self, depth: int, width: float, source_length: int, tokens: int) -> None:
        super().__init__()
        self.source_length = source_length
        heads = max(2, round(BASE * width / HEAD))
        self.features = heads * max(1, round(BASE * width / heads))
        self.embedding = nn.Embedding(tokens, self.features)
        self.encoder = nn.ModuleList(EncoderLayer(self.features, heads) for _ in range(depth))
        self.decoder = nn.ModuleList(DecoderLayer(self.features, heads) for _ in range(depth))
        initialise(self)

    def forward(self, row: Tensor, memory: Tensor | None = None) -> Tensor:
        """Return the logits of the token after each one of the target: [batch, t, vocabulary].

        For rows without a target, return the encoded source, [batch, source_length, features];
        decoding passes it as ``memory``, so that it is not computed again for every token.

        Args:
            row: the source, padded to ``source_length``, and the target so far,
                [batch, source_length + t].
            memory: the encoded source, if it is known.
        """
        source, target = row[:, : self.source_length], row[:, self.source_length :]
        mask = (source == PAD)[:, None, None, :]
        if memory is None:
            memory = self.embed(source)
            for layer in self.encoder:
                memory = layer(memory, mask)
        if not target.shape[1]:
            return memory
        position = torch.arange(target.shape[1], device=row.device)
        causal_mask = position > position[:, None]
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, causal_mask, memory, mask)
        return x @ self.embedding.weight.mT

    def embed(self, tokens: Tensor) -> Tensor:
        """Return vectors [batch, t, features] of tokens [batch, t] and their positions."""
        x = self.embedding(tokens) * math.sqrt(self.features)
        return x + positions(tokens.shape[1], self.features, x)


def positions(length: int, features: int, like: Tensor) -> Tensor:
    """Return sines and cosines of wavelengths 2 pi to 10,000 x 2 pi: [length, features]."""
    position = torch.arange(length, device=like.device, dtype=like.dtype)
    rank = torch.arange(0, features, 2, device=like.device, dtype=like.dtype)
    angle = position[:, None] * torch.exp(rank * (-math.log(1e4) / features))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :features]


def initialise(net: Transformer) -> None:
    """Draw linear layers by Glorot's rule, biases 0, and embeddings from N(0, 1 / features)."""
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(net.embedding.weight, 0.0, net.features**-0.5)
