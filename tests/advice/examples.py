"""Small nets and data that tests put to `advise`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import threeregime
from threeregime.advice import user_data
from threeregime.advice.advice import Advice
from threeregime.advice.candidates import LiveTrials
from threeregime.advice.inspection import inspect_net
from threeregime.advice.model import PrunableNet, state_of
from threeregime.data.tensors import TensorTask
from threeregime.training import default_retraining

Pair = tuple[Tensor, Tensor]
CLASSES = 4


class Sentences(nn.Module):
    """A Transformer encoder that guesses a class, or with ``tied`` every next word."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tied = tied
        self.words = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11 if tied else CLASSES, bias=False)
        if tied:
            self.head.weight = self.words.weight
        mask = nn.Transformer.generate_square_subsequent_mask(6)  # with infinities
        self.register_buffer("mask", mask)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, words: Tensor) -> Tensor:
        seen = self.encoder(self.words(words) * self.scale, mask=self.mask)
        return self.head(seen if self.tied else seen.mean(dim=1))


class Rows(nn.Module):
    """A recurrent net over the rows of a picture."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU] = nn.LSTM) -> None:
        super().__init__()
        self.rows = kind(4, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rows(x[:, 0])[0][:, -1])


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, CLASSES)
    )


def plain() -> nn.Module:
    """Convolutions without batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, CLASSES),
    )


def normed() -> nn.Module:
    """Convolutions with batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, CLASSES),
    )


def line() -> nn.Module:
    """Convolutions along one dimension, with batch norm."""
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(1, 4, 3, bias=False),  # Adam makes rounding errors of one before batch norm
        nn.BatchNorm1d(4),
        nn.Flatten(),
        nn.Linear(56, CLASSES),
    )


def solid() -> nn.Module:
    """Convolutions along three dimensions, batch norm with a mean over all batches."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 1)),
        nn.Conv3d(1, 4, (1, 3, 3)),
        nn.BatchNorm3d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def pictures(count: int = 64, seed: int = 0) -> Pair:
    """Noise with a bright row, whose number is the class: [count, 1, 4, 4]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    inputs = 0.3 * torch.rand((count, 1, 4, 4), generator=generator)
    inputs[torch.arange(count), 0, labels] += 1
    return inputs, labels


def words(places: bool = False) -> Pair:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(11, (64, 6), generator=generator)
    following = inputs.roll(-1, dims=1)
    following[:, -1] = -100
    return inputs, following if places else inputs[:, 0] % CLASSES


def digits(count: int = 400) -> Pair:
    loaded = load_digits()
    return torch.tensor(loaded.images[:count]).float()[:, None] / 16, torch.tensor(
        loaded.target[:count]
    )


def build_net(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def trained(
    build: Callable[[], nn.Module], data: Pair, epochs: tuple[int, ...]
) -> dict[str, dict[str, Tensor]]:
    """State of a net after so many epochs."""
    net, states = build_net(build), {}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            states[f"epoch_{epoch}"] = copy.deepcopy(net.state_dict())
        for batch in torch.arange(len(data[1])).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data[0][batch]), data[1][batch]).backward()
            optimizer.step()
    return states


def trained_net(build: Callable[[], nn.Module], data: Pair, epochs: int = 12) -> nn.Module:
    net = build_net(build)
    net.load_state_dict(trained(build, data, (epochs,))[f"epoch_{epochs}"])
    return net


def ask(model: Any, data: Any, **options: Any) -> Advice:
    return threeregime.advise(
        model, data, **{"epochs": 1, "density": 0.3, "device": "cpu", "progress": False, **options}
    )


def inspect(model: nn.Module, data: Any, **options: Any) -> PrunableNet:
    split = user_data.draw_split(data, 10_000, 0, "training")
    return inspect_net(model, (split, None), **options)[0]


class Silent:
    """A progress bar without output that counts work."""

    def __init__(self) -> None:
        self.n = 0.0
        self.total = 0.0
        self.disable = True

    def set_description(self, text: str) -> None: ...

    def update(self, work: float) -> None:
        self.n += work


def live(model: nn.Module, data: Pair, copies: int = 2, **options: Any) -> LiveTrials:
    train = user_data.draw_split(data, 10_000, 0, "training")
    net, (train, _) = inspect_net(model, (train, None))
    task = TensorTask("made", train, None, net.classes)
    recipe = default_retraining(task.count, False, **{"epochs": 2, "batch_size": 16, **options})
    return LiveTrials(net, {"it": state_of(net.module)}, task, 0.3, recipe, copies, 0, Silent())
