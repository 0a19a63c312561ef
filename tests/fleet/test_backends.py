"""Backends in general: what can be stacked, and that single layers are those of plain nets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.helpers.small_nets import draw_images, make_fleet, needs_compiler, plain_net
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import BACKENDS, Fleet

backends = pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=needs_compiler) if name == "planned" else name
        for name in sorted(BACKENDS)
    ],
)


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


def test_a_layer_that_cannot_be_stacked_is_named() -> None:
    with pytest.raises(ThreeRegimeError, match=r"type _Odd cannot run in a fleet that is grouped"):
        BACKENDS["grouped"].stack(nn.Sequential(_Odd()), 2)


@needs_compiler
@pytest.mark.parametrize(
    ("net", "line"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GELU()), r"^gelu is in no plan"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(dim=1)), r"^softmax is in no plan"),
    ],
    ids=["gelu", "softmax"],
)
def test_an_operation_that_no_plan_has_is_named(net: nn.Module, line: str) -> None:
    """Which operations a net calls is known at its first pass."""
    fleet = Fleet.initial(lambda: net, [1, 2], backend="planned")
    with pytest.raises(ThreeRegimeError, match=line):
        fleet.logits(torch.ones(3, 2, 4))


@needs_compiler
def test_a_number_that_is_trained_is_in_no_plan() -> None:
    layer = nn.Linear(2, 2)
    layer.scale = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ThreeRegimeError, match=r"^a net with a scalar parameter .* in no plan"):
        BACKENDS["planned"].stack(layer, 2)


def test_vmapped_nets_have_no_statistics() -> None:
    with pytest.raises(ThreeRegimeError, match=r"statistics .* vmapped: use grouped or separate"):
        BACKENDS["vmapped"].stack(nn.Sequential(nn.BatchNorm2d(2)), 2)


@backends
@pytest.mark.parametrize("bias", [False, True])
def test_single_layers_stack(backend: str, bias: bool) -> None:
    """Biases and several outputs, which the paper's nets have none or few of."""

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(),
            nn.AvgPool2d(3),
            nn.Flatten(),
            nn.Linear(4, 6, bias=bias),
        )

    fleet = make_fleet(build, 3, backend=backend)
    images = draw_images(fleet, 5, (3, 6, 6))
    together = fleet.logits(images)
    assert together.shape == (3, 5, 6)
    for member in range(3):
        plain = plain_net(fleet, member)
        torch.testing.assert_close(together[member], plain(images[:, member]))
        # one batch for all
        torch.testing.assert_close(
            fleet.logits(fleet.broadcast(images[:, 0]))[member], plain(images[:, 0])
        )


@backends
def test_a_state_is_that_of_plain_nets_whatever_the_layout(backend: str) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, (3, 3)), nn.Flatten(), nn.Linear(4, 6))

    fleet = Fleet.initial(build, [1, 2, 3], backend=backend)
    state = fleet.state()
    for member, seed in enumerate([1, 2, 3]):
        torch.manual_seed(seed)
        for name, tensor in build().state_dict().items():
            assert torch.equal(state[name][member], tensor), name
    turned = fleet.select([2, 0, 2, 1]).state()
    assert all(torch.equal(turned[name], tensor[[2, 0, 2, 1]]) for name, tensor in state.items())


def test_group_norm_of_each_member_is_its_own() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(16, 3))

    images = torch.rand(5, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    together = Fleet.initial(build, [1, 2, 3], backend="grouped")
    separate = Fleet.initial(build, [1, 2, 3], backend="separate")
    outputs = [fleet.logits(fleet.broadcast(images)) for fleet in (together, separate)]
    torch.testing.assert_close(*outputs)
