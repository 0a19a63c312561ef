"""Layers that are pruned, the classifier that is not, and outputs of every form."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.advice.examples import CLASSES, Rows, ask, build_net, inspect, normed, pictures, plain
from threeregime.advice import advisor
from threeregime.errors import ThreeRegimeError


def layers(net: nn.Module) -> Any:
    """Return a sequence of layers."""
    return net


# --- layers


def convolutional() -> nn.Module:
    """The classifier is a convolution, as in SqueezeNet."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, CLASSES, 1), nn.AdaptiveAvgPool2d(1)
    )


class Reversed(nn.Module):
    """The classifier is defined first, and a linear layer of a gate is called last but one."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(8, CLASSES), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.flatten(1)).relu())


class Gated(nn.Module):
    """A linear layer that is no classifier is called last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classify = nn.Conv2d(1, 6, 3), nn.Conv2d(6, CLASSES, 2)
        self.gate = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.body(x).relu()
        return self.classify(seen).flatten(1) * self.gate(seen.mean(dim=(2, 3))).sigmoid()


@pytest.mark.parametrize(
    ("build", "classifier", "names"),
    [
        (convolutional, "2", ["0.weight"]),
        (Reversed, "head", ["body.weight"]),
        (Gated, "classify", ["body.weight", "gate.weight"]),
        (Rows, "head", ["rows.weight_ih_l0", "rows.weight_hh_l0"]),
        (lambda: Rows(nn.GRU), "head", ["rows.weight_ih_l0", "rows.weight_hh_l0"]),
    ],
)
def test_the_classifier_is_the_last_layer_with_an_output_per_class(
    build: Callable[[], nn.Module], classifier: str, names: list[str]
) -> None:
    found = inspect(build_net(build), pictures())
    assert (found.classifier, found.prunable) == (classifier, tuple(f"net.{n}" for n in names))


def test_recurrent_layers_are_named() -> None:
    assert "2 LSTM" in str(ask(build_net(Rows), pictures()))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"keep": ["0"]}, ["3"]),
        ({"keep": ["[1-3]"]}, ["0"]),
        ({"only": ["0", "6.weight"]}, ["0", "6"]),
        ({"only": ["*"], "keep": ["0"]}, ["3", "6"]),
    ],
)
def test_lists_of_layers(options: dict[str, Any], names: list[str]) -> None:
    found = inspect(build_net(plain), pictures(), **options)
    assert found.prunable == tuple(f"net.{name}.weight" for name in names)


def test_lists_of_layers_are_checked() -> None:
    net = build_net(plain)
    with pytest.raises(ThreeRegimeError, match=r"'stem' is no layer of the net: .* 0, 3, 6"):
        ask(net, pictures(), keep=["stem"])
    with pytest.raises(ThreeRegimeError, match="nothing to prune"):
        ask(net, pictures(), keep="*")


def test_global_pruning_ranks_all_layers_together() -> None:
    net = build_net(plain)
    with torch.no_grad():
        layers(net)[3].weight.mul_(100)
    answer = ask(net, pictures(), method="global", density=0.5)
    assert "of the weights of all 2 layers" in str(answer)
    with pytest.raises(ThreeRegimeError, match="method = 'local' is not allowed: one of uniform"):
        ask(net, pictures(), method="local")


# --- outputs


class Named(nn.Module):
    def __init__(self, kind: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.kind = normed(), kind

    def forward(self, pixel_values: Tensor) -> Any:
        return self.kind(self.net(pixel_values))


@pytest.mark.parametrize(
    "kind",
    [
        lambda logits: {"logits": logits, "loss": 0},
        lambda logits: SimpleNamespace(logits=logits, hidden=None),
        lambda logits: (logits,),
        lambda logits: logits[:, :, None, None],
        lambda logits: logits.log_softmax(dim=1),
        lambda logits: logits.softmax(dim=1),
    ],
)
def test_outputs_in_other_forms(kind: Callable[[Tensor], Any]) -> None:
    expected = ask(build_net(normed), pictures()).evidence[advisor.OWN]
    answer = ask(build_net(lambda: Named(kind)), pictures())
    got = answer.evidence[advisor.OWN]
    assert got.lmc == pytest.approx(expected.lmc, abs=0.05)
    assert got.cka == pytest.approx(expected.cka, abs=0.02)


def test_probabilities_are_named() -> None:
    answer = ask(nn.Sequential(build_net(normed), nn.Softmax(1)), pictures())
    assert "outputs are probabilities already" in str(answer)


def test_functions_for_the_outputs_and_the_loss() -> None:
    class Pairs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = normed()

        def forward(self, x: Tensor, scale: float) -> tuple[Tensor, Tensor]:
            return x, self.net(x) * scale

    def loss(outputs: Tensor, labels: Tensor) -> Tensor:
        assert outputs.shape == (*labels.shape, CLASSES)
        return nn.functional.cross_entropy(outputs, labels)

    expected = ask(build_net(normed), pictures())
    answer = ask(build_net(Pairs), pictures(), forward=lambda net, x: net(x, scale=1)[1], loss=loss)
    assert answer.evidence[advisor.OWN].lmc == pytest.approx(expected.evidence["the net"].lmc)
    with pytest.raises(ThreeRegimeError, match="fails in retraining: TypeError"):
        ask(build_net(normed), pictures(), loss=lambda outputs: outputs.sum())
