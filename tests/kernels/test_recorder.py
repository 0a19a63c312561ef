"""The recording of a net: its list of operations, and what it refuses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.small_nets import (
    Written,
    assert_near,
    draw_images,
    make_fleet,
    needs_compiler,
    plain_net,
)
from threeregime.errors import ThreeRegimeError
from threeregime.kernels import UnplannedOp, record
from threeregime.kernels.recorder import KINDS, Op
from threeregime.models import NETS

Pass = Callable[[Any, Tensor], Any]


def conv(before: int = 2, after: int = 2, k: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(before, after, k, padding=k // 2, bias=False, **options)


def kinds(ops: list[Op]) -> list[str]:
    return [KINDS[op.kind] for op in ops]


# --- lists of operations


def test_a_block_is_two_norms_and_two_convolutions() -> None:
    """ReLU belongs to its norm, the residual to its convolution, which reads through its norm."""
    net = Written(
        lambda net, x: (
            net.first(x) + net.second(F.relu(net.norm(net.third(x))))  # added to the later one
        ).mean(dim=(2, 3)),
        first=conv(), second=conv(2, 2), third=conv(2, 2, 1), norm=nn.BatchNorm2d(2),
    )  # fmt: skip
    recorder = record(net, (2, 5, 4))
    first, third, norm, second, mean = recorder.ops
    assert kinds(recorder.ops) == ["conv", "conv", "norm", "conv", "mean"]
    assert (norm.relu, norm.lazy, second.norm) == (1, 1, 2)
    assert (second.other, second.input) == (first.output, norm.output)
    assert norm.input == third.output
    assert (mean.input, mean.k, mean.s, mean.Ho, mean.Wo) == (second.output, 5, 4, 1, 1)
    assert recorder.shapes[0] == (5, 4, 2)
    assert [p.name for p in recorder.parameters] == [
        "first.weight", "third.weight", "norm.weight", "norm.bias", "second.weight",
    ]  # fmt: skip
    assert [p.offset for p in recorder.parameters] == [0, 36, 40, 42, 44]
    assert (recorder.size, recorder.norms, recorder.eps) == (80, ["norm"], [1e-5])


def test_what_has_another_reader_stays() -> None:
    """A norm that two operations read is written down, and its ReLU is one of its own."""

    def run(net: Any, x: Tensor) -> Tensor:
        norm = net.norm(x)
        return (net.conv(F.relu(norm)) + norm).mean(dim=(2, 3))

    ops = record(Written(run, norm=nn.BatchNorm2d(2), conv=conv()), (2, 4, 4)).ops
    assert kinds(ops) == ["norm", "relu", "conv", "mean"]
    assert (ops[0].relu, ops[0].lazy, ops[2].norm, ops[2].other) == (0, 0, -1, ops[0].output)


def test_a_residual_that_is_made_later_is_an_addition() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        made = net.conv(x)
        return (made + F.relu(made)).mean(dim=(2, 3))

    assert kinds(record(Written(run, conv=conv()), (2, 4, 4)).ops) == [
        "conv",
        "relu",
        "add",
        "mean",
    ]


@pytest.mark.parametrize("width", [0.3, 3 / 8, 1.0])
@pytest.mark.parametrize(
    ("name", "depth", "expected"),
    [
        ("preresnet", 14, {"conv": 15, "norm": 13, "mean": 1, "linear": 1}),
        ("densenet", 10, {"conv": 9, "norm": 9, "concat": 6, "average": 2, "mean": 1, "linear": 1}),
        ("vgg", 13, {"conv": 10, "norm": 10, "max": 2, "mean": 1, "linear": 1}),
    ],
)
def test_the_papers_nets_are_planned(
    name: str, depth: int, width: float, expected: dict[str, int]
) -> None:
    """Nothing but these operations: all ReLUs and residuals are in others."""
    net = NETS[name].build(depth, width, 3, 10)
    recorder = record(net, (3, 8, 8))
    found = kinds(recorder.ops)
    assert {kind: found.count(kind) for kind in found} == expected
    assert {p.name: p.shape for p in recorder.parameters} == {
        n: tuple(p.shape) for n, p in net.named_parameters()
    }


def test_recording_changes_neither_net_nor_random_state() -> None:
    net = nn.Sequential(conv(), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 3)).eval()
    net[1].training = True
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    modes = [layer.training for layer in net.modules()]
    state = torch.get_rng_state()
    record(net, (2, 1, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert [layer.training for layer in net.modules()] == modes
    assert all(parameter.grad is None for parameter in net.parameters())


# --- refusals


class Switching(nn.Module):
    """A net that calls other operations in training."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(x)) if self.training else self.linear(x)


class Scaled(nn.Module):
    """A net whose weight is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, 2 * self.weight)


def changed_in_place(net: Any, x: Tensor) -> Tensor:
    y = net.linear(x)
    y[:, 0] = 0
    return net.end(y)


def changed_by_part(net: Any, x: Tensor) -> Tensor:
    y = net.linear(x)
    part, _ = y.chunk(2, dim=1)
    part.mul_(2)
    return net.end(y)


def changed_by_view(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    view = y.flatten(1)
    F.relu_(y)
    return net.end(view)


def changed_by_keyword(net: Any, x: Tensor) -> Tensor:
    y = net.linear(x)
    torch.relu_(input=y)
    return net.end(y)


def twice(net: Any, x: Tensor) -> Tensor:
    return net.linear(net.linear(x))


def written(run: Pass, **layers: nn.Module) -> nn.Module:
    return Written(run, **layers)


IMAGE, PIXEL, FEATURES = (2, 4, 4), (2, 1, 1), (2,)
LINEAR = {"linear": nn.Linear(2, 2), "end": nn.Linear(2, 2)}
REFUSED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "gelu": (nn.Sequential(nn.Linear(2, 2), nn.GELU()), FEATURES, "^gelu is in no plan"),
    "dropout": (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), FEATURES, "^dropout is in no plan"),
    "view": (
        written(lambda net, x: net.linear(x.view(-1, 2)), linear=nn.Linear(2, 2)),
        PIXEL,
        "^view is in no plan",
    ),
    "a constant": (
        written(lambda net, x: net.linear(x) + 1.0, linear=nn.Linear(2, 2)),
        FEATURES,
        "^add with these arguments",
    ),
    "a weighted sum": (
        written(lambda net, x: torch.add(net.linear(x), x, alpha=2), linear=nn.Linear(2, 2)),
        FEATURES,
        "^add with these arguments",
    ),
    "a computed weight": (Scaled(), FEATURES, "^linear with these arguments"),
    "groups": (nn.Sequential(conv(groups=2), nn.Flatten()), IMAGE, "^a convolution with groups"),
    "dilation": (nn.Sequential(conv(dilation=2), nn.Flatten()), IMAGE, "^a convolution with"),
    "a kernel of unequal sides": (nn.Sequential(nn.Conv2d(2, 2, (3, 1))), IMAGE, "unequal sides"),
    "a stride of unequal sides": (
        nn.Sequential(nn.Conv2d(2, 2, 3, stride=(1, 2))), IMAGE, "unequal sides",
    ),
    "a padding of unequal sides": (
        nn.Sequential(nn.Conv2d(2, 2, 3, padding=(1, 0))), IMAGE, "unequal sides",
    ),
    "a padding in words": (nn.Sequential(nn.Conv2d(2, 2, 3, padding="same")), IMAGE, "unequal"),
    "a norm without parameters": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)), FEATURES, "^a batch norm",
    ),
    "a norm without statistics": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False)),
        FEATURES,
        "^a batch norm without",
    ),
    "a norm of all batches": (
        nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None)), FEATURES, "norm",
    ),
    "a broadcast addition": (
        written(lambda net, x: (net.conv(x) + x.mean(dim=(2, 3), keepdim=True)), conv=conv()),
        IMAGE,
        "^an addition of tensors of different shapes",
    ),
    "three parts": (
        written(lambda net, x: net.end(torch.cat([x, x, x], 1)), end=nn.Linear(6, 2)),
        FEATURES,
        "^a concatenation of other than two",
    ),
    "parts of the batch": (
        written(lambda net, x: net.end(torch.cat([x, x])), end=nn.Linear(2, 2)),
        FEATURES,
        "^a concatenation",
    ),
    "a mean of rows": (
        written(lambda net, x: net.conv(x).mean(dim=(1, 2)), conv=conv()), IMAGE, "^a mean over",
    ),
    "a mean of all": (
        written(lambda net, x: net.conv(x).mean(), conv=conv()), IMAGE, "^a mean over other",
    ),
    "a pooling to four pixels": (
        nn.Sequential(conv(), nn.AdaptiveAvgPool2d(2)), IMAGE, "^an adaptive pooling to more",
    ),
    "a pooling with overlap": (
        nn.Sequential(conv(), nn.MaxPool2d(2, stride=1)), IMAGE, "^a pooling with overlap",
    ),
    "a pooling of unequal sides": (
        nn.Sequential(conv(), nn.MaxPool2d((2, 1))), IMAGE, "^a pooling with overlap",
    ),
    "a pooling with padding": (
        nn.Sequential(conv(), nn.MaxPool2d(2, padding=1)), IMAGE, "^a pooling with padding",
    ),
    "a pooling that rounds up": (
        nn.Sequential(conv(), nn.MaxPool2d(3, ceil_mode=True)), IMAGE, "^a pooling with padding",
    ),
    "an average with padding": (
        nn.Sequential(conv(), nn.AvgPool2d(2, padding=1)), IMAGE, "pool",
    ),
    "an average that rounds up": (
        nn.Sequential(conv(), nn.AvgPool2d(3, ceil_mode=True)), IMAGE, "pool",
    ),
    "an average of another divisor": (
        nn.Sequential(conv(), nn.AvgPool2d(2, divisor_override=3)), IMAGE, "pool",
    ),
    "flat pixels": (
        nn.Sequential(conv(), nn.Flatten(), nn.Linear(32, 2)), IMAGE, "^flattening of more",
    ),
    "a linear layer of pixels": (
        nn.Sequential(conv(2, 2), nn.Linear(4, 3)), IMAGE, "^a linear layer of other than",
    ),
    "an output of images": (nn.Sequential(conv()), IMAGE, r"^an output other than \[batch"),
    "an output of other than the last": (
        written(lambda net, x: [net.linear(x), net.end(x)][0], **LINEAR),
        FEATURES,
        "^an output that is not that of the last",
    ),
    "two outputs": (
        written(lambda net, x: (net.linear(x), net.end(x)), **LINEAR), FEATURES, "^an output that",
    ),
    "no operation": (
        written(lambda net, x: x, linear=nn.Linear(2, 2)), FEATURES, "^an output that is not",
    ),
    "another net in training": (Switching(), FEATURES, "^a net that calls other operations"),
    "no parameter": (nn.Sequential(nn.ReLU()), FEATURES, "^a net without parameters"),
    "a parameter twice": (written(twice, linear=nn.Linear(2, 2)), FEATURES, "used never or twice"),
    "a parameter never": (
        written(lambda net, x: net.linear(x), **LINEAR), FEATURES, "used never or twice",
    ),
    "an image that is too small": (
        nn.Sequential(nn.Conv2d(2, 2, 7)), IMAGE, r"^a net that fails on \(2, 2, 4, 4\)",
    ),
    "a wrong number of features": (
        nn.Sequential(nn.Linear(5, 2)), FEATURES, r"^a net that fails on \(2, 2\)",
    ),
    "too few dimensions": (
        written(lambda net, x: net.linear(x.flatten(2)), linear=nn.Linear(2, 2)), FEATURES, "fails",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_plan_has_is_named(case: str) -> None:
    net, shape, line = REFUSED[case]
    with pytest.raises(UnplannedOp, match=line) as raised:
        record(net, shape)
    assert "\n" not in str(raised.value)
    assert isinstance(raised.value, ThreeRegimeError)


# --- layers of PyTorch, as modules and as functions


ACCEPTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "modules": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
            nn.Conv2d(4, 5, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Identity(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(5, 3),
        ),
        (2, 7, 6),
    ),
    "pooling with remainders": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 1), nn.AvgPool2d(3), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()
        ),
        (2, 8, 7),
    ),
    "features": (
        lambda: nn.Sequential(
            nn.Linear(3, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 5, bias=False), nn.ReLU()
        ),
        (3,),
    ),
    "methods": (
        lambda: Written(
            lambda net, x: net.end(net.conv(x).relu().mean((-2, -1)).relu_().add(x.mean((2, 3)))),
            conv=conv(),
            end=nn.Linear(2, 3),
        ),
        (2, 3, 4),
    ),
    "a sum in place": (
        lambda: Written(
            lambda net, x: net.end(net.conv(x).add_(x).mean([2, 3])),
            conv=conv(),
            end=nn.Linear(2, 3),
        ),
        (2, 3, 4),
    ),
    "twice the same": (
        lambda: Written(
            lambda net, x: torch.cat([*[net.conv(x).mean((2, 3))] * 2], dim=1), conv=conv()
        ),
        (2, 3, 4),
    ),
    "a norm of images": (
        lambda: nn.Sequential(nn.BatchNorm2d(2, eps=0.1), nn.Conv2d(2, 3, 1), nn.Flatten()),
        (2, 1, 1),
    ),
}  # fmt: skip


def assert_computes_the_net(
    build: Callable[[], nn.Module], shape: tuple[int, ...], case: str
) -> None:
    """Compare a planned fleet's outputs with those of its plain nets."""
    fleet = make_fleet(build, 3)
    images = draw_images(fleet, 9, shape)
    nets = [plain_net(fleet, member) for member in range(3)]
    outputs = fleet.logits(images)
    for member, net in enumerate(nets):
        assert_near(outputs[member], net(images[:, member]), case)


@needs_compiler
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_planned_computes_what_the_net_does(case: str) -> None:
    assert_computes_the_net(*ACCEPTED[case], case)


def unread_in_between(net: Any, x: Tensor) -> Tensor:
    norm = net.norm(x)
    net.linear(x)
    return F.relu(norm)


def unread(net: Any, x: Tensor) -> Tensor:
    y = net.conv(x)
    net.linear(y.mean(dim=(2, 3)))
    return y.mean(dim=(2, 3))


UNUSUAL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "elements that change": (
        lambda: Written(changed_in_place, linear=nn.Linear(2, 2), end=nn.Linear(2, 2)), FEATURES,
    ),
    "a part that changes": (
        lambda: Written(changed_by_part, linear=nn.Linear(2, 2), end=nn.Linear(2, 2)), FEATURES,
    ),
    "a view that changes": (
        lambda: Written(changed_by_view, conv=nn.Conv2d(2, 2, 1), end=nn.Linear(2, 2)), PIXEL,
    ),
    "a keyword that changes": (
        lambda: Written(changed_by_keyword, linear=nn.Linear(2, 2), end=nn.Linear(2, 2)), FEATURES,
    ),
    "a result that nothing reads": (
        lambda: Written(unread, conv=conv(), linear=nn.Linear(2, 5)), IMAGE,
    ),
    "a result that nothing reads, before a ReLU": (
        lambda: Written(unread_in_between, norm=nn.BatchNorm1d(2), linear=nn.Linear(2, 2)),
        FEATURES,
    ),
}  # fmt: skip


@needs_compiler
@pytest.mark.parametrize("case", UNUSUAL)
def test_what_is_unusual_is_refused_or_computed(case: str) -> None:
    with torch.no_grad(), contextlib.suppress(UnplannedOp):
        assert_computes_the_net(*UNUSUAL[case], case)
