"""A property: whatever architecture, data and checkpoint, there is an answer or one line."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from tests.advice.examples import Pair, ask, build_net
from threeregime.advice.advice import Advice
from threeregime.errors import ThreeRegimeError

NORMS = st.sampled_from(
    [
        lambda width: nn.BatchNorm2d(width),
        lambda width: nn.BatchNorm2d(width, track_running_stats=False),
        lambda width: nn.SyncBatchNorm(width),
        lambda width: nn.GroupNorm(1, width),
        lambda width: nn.InstanceNorm2d(width, affine=True),
        lambda width: nn.Identity(),
        lambda width: nn.Dropout(0.5),
    ]
)
POOLS = st.sampled_from([nn.Flatten(), nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(2)])
HEADS = ("linear", "convolution", "squeeze", "dictionary", "softmax") * 3 + ("none",)
WRAPS = ("plain", "parallel", "frozen", "half", "weight norm", "compiled in place") * 3 + ("meta",)


class Net(nn.Module):
    """A net of drawn parts."""

    def __init__(self, widths: list[int], norms: list[Any], pool: nn.Module, head: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for width, norm in zip(widths, norms, strict=False):
            layers += [nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU()]
            channels = width
        self.body, self.pool, self.kind = nn.Sequential(*layers), pool, head
        self.register_buffer("steps", torch.tensor(0))
        size = pool(self.body.eval()(torch.zeros(2, 1, 4, 4))).flatten(1).shape[1]
        self.head: nn.Module = nn.Linear(size, 3)
        if head == "convolution":
            self.head = nn.Conv2d(channels, 3, 1)

    def forward(self, x: Tensor) -> Any:
        seen = self.body(x)
        if self.kind == "convolution":
            return self.head(seen).mean(dim=(2, 3), keepdim=True)
        if self.kind == "none":
            return self.pool(seen)
        seen = self.pool(seen)
        seen = seen.squeeze().flatten(1) if self.kind == "squeeze" else seen.flatten(1)
        logits = self.head(seen)
        forms: dict[str, Any] = {"dictionary": {"logits": logits}, "softmax": logits.softmax(1)}
        return forms.get(self.kind, logits)


@st.composite
def nets(draw: st.DrawFn) -> tuple[nn.Module, str]:
    widths = draw(
        st.lists(st.integers(2, 6), min_size=draw(st.sampled_from([0, 1, 1, 1])), max_size=3)
    )
    norms = draw(st.lists(NORMS, min_size=3, max_size=3))
    parts = (widths, norms, draw(POOLS), draw(st.sampled_from(HEADS)))
    return build_net(lambda: Net(*parts), draw(st.integers(0, 3))), draw(st.sampled_from(WRAPS))


def wrapped(net: nn.Module, wrap: str) -> nn.Module:
    first = next((m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)), net)
    if wrap == "parallel":
        return nn.DataParallel(net)
    if wrap == "frozen":
        first.requires_grad_(False)
    if wrap == "half":
        net.half()
    if wrap == "weight norm":
        parametrizations.weight_norm(first)
    if wrap == "meta":
        net.to("meta")
    if wrap == "compiled in place":
        net.compile()
    return net


SOUND = 12
"""How much more often data are sound than not."""


@st.composite
def data(draw: st.DrawFn) -> Any:
    count = draw(st.sampled_from([60, 257, 100] * SOUND + [0, 1, 2, 3, 17]))
    shape = draw(st.sampled_from([(1, 4, 4)] * SOUND + [(3, 4, 4), (4,)]))
    scale = draw(st.sampled_from([1.0] * SOUND + [1e30, torch.nan]))
    generator = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % draw(st.sampled_from([2, 3] * SOUND + [1, 4]))
    inputs = torch.rand((count, *shape), generator=generator)
    pair = ((inputs + labels.view(-1, *[1] * len(shape))) * scale, labels)
    return draw(st.sampled_from(forms(pair)))


def forms(pair: Pair) -> list[Any]:
    """Return a pair of inputs and labels in several forms."""
    inputs, labels = pair
    arrays = (inputs.numpy().astype(">f8"), labels.numpy().astype(str))
    sound = [
        pair,
        arrays,
        (inputs, labels[:, None]),
        TensorDataset(*pair),
        DataLoader(TensorDataset(*pair), batch_size=7) if len(labels) else [],
        {"x": inputs, "labels": labels.numpy()},
        (pair, pair),
    ]
    others = [(inputs, labels + 1), (inputs, nn.functional.one_hot(labels, 4)), inputs]
    return [*sound * 3, *others]


CHECKPOINTS = ("none", "own", "prefixed", "nested", "half") * 3 + ("short", "other", "not a number")


def checkpoint(net: nn.Module, form: str) -> Any:
    """Return the weights of a net in some form; None for no checkpoint."""
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    changed: dict[str, Any] = {
        "none": None,
        "own": state,
        "prefixed": {f"module.model.{name}": tensor for name, tensor in state.items()},
        "nested": {"net": state, "args": argparse.Namespace(lr=1), "optimizer": {"state": {}}},
        "half": {name: tensor.half() for name, tensor in state.items()},
        "short": dict(list(state.items())[1:]),
        "other": {"fc.weight": torch.zeros(3, 3)},
        "not a number": {name: tensor * torch.nan for name, tensor in state.items()},
    }
    return changed[form]


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch.compile itself
@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(
    model=nets(),
    examples=data(),
    form=st.sampled_from(CHECKPOINTS),
    density=st.sampled_from([0.05, 0.5, 1.0]),
    options=st.sampled_from(
        [{}, {"method": "global"}, {"keep": ["body.3"]}, {"prune": ["head"]}, {"copies": 3}]
    ),
)
def test_an_answer_or_one_line(
    model: tuple[nn.Module, str], examples: Any, form: str, density: float, options: dict[str, Any]
) -> None:
    net, wrap = model
    weights = checkpoint(net, form)
    given = {"checkpoints": None if weights is None else {"it": weights}, **options}
    error = ""
    try:
        answer = ask(wrapped(net, wrap), examples, density=density, **given)
    except ThreeRegimeError as caught:
        error = str(caught)
        assert len(error.splitlines()) == 1
        assert len(error) < 400
    else:
        assert isinstance(answer, Advice)
        assert str(answer).startswith("Pruned to ")
        assert answer.turn in ("hotter", "colder", "stay", "cannot tell")
