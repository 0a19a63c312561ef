"""The short retraining: its defaults, and the range test of its learning rate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from threeregime.data import TensorSplit, TensorTask
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import Fleet
from threeregime.pruning import prune_masks
from threeregime.training import (
    RATES,
    Callback,
    TrainingRun,
    default_retraining,
    largest_good_rates,
    train,
)


def task() -> TensorTask:
    """Points in a plane, the class by the quadrant: hard for a line, easy for a small net."""
    points = torch.rand(240, 2, generator=torch.Generator().manual_seed(0)) - 0.5
    labels = 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()
    return TensorTask("quadrants", TensorSplit(points, labels, 240), None, 4)


def fleet(seeds: list[int]) -> Fleet:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 24), nn.ReLU(), nn.Linear(24, 4))

    return Fleet.initial(build, seeds, backend="vmapped")


def find(nets: Fleet, rates: list[float], **options: Any) -> list[float]:
    recipe = default_retraining(240, False)
    return largest_good_rates(nets, task(), recipe, list(range(nets.members)), rates, **options)


def test_rates_that_are_too_cold_or_too_hot_are_not_chosen() -> None:
    assert find(fleet([0, 1]), [1e-6, 1e-2, 1e3]) == [1e-2, 1e-2]


def test_the_chosen_rate_is_the_largest_good_one_whatever_the_order() -> None:
    nets = fleet([0])
    assert find(nets, [0.03, 0.02]) == find(nets, [0.02, 0.03]) == [0.03]


def test_a_net_that_always_diverges_gets_the_smallest_rate() -> None:
    nets = fleet([0])
    nets.load({name: tensor * torch.inf for name, tensor in nets.state().items()})
    assert find(nets, [0.1, 0.01]) == [0.01]


def test_a_member_has_the_same_rate_alone() -> None:
    nets = fleet([0, 1, 2])
    together = find(nets, list(RATES["adam"]))
    assert find(fleet([0]), list(RATES["adam"])) == together[:1]


def test_the_nets_and_the_random_state_stay_as_they_are() -> None:
    nets = fleet([0])
    before, steps = nets.state(), []
    masks = prune_masks(nets, 0.5, names=["0.weight"])
    random = torch.get_rng_state()

    class Count(Callback):
        def on_step_end(self, run: TrainingRun) -> None:
            steps.append(1)

    find(nets, [0.01, 0.03], masks=masks, callback=Count())
    assert len(steps) == 100
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], tensor) for name, tensor in nets.state().items())


def test_training_at_the_rate_succeeds() -> None:
    nets, data = fleet([0]), task()
    (rate,) = find(nets, list(RATES["adam"]))
    recipe = default_retraining(240, False, lr=rate)
    before = data.errors(nets, train=True)
    train(nets, data, recipe, [0])
    assert float(data.errors(nets, train=True)) < 0.2 < float(before)


@pytest.mark.parametrize(
    ("examples", "batch", "epochs"), [(16, 2, 20), (100, 12, 20), (797, 32, 20), (20_000, 32, 2)]
)
def test_the_default_makes_some_hundred_steps(examples: int, batch: int, epochs: int) -> None:
    recipe = default_retraining(examples, True)
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.milestones[-1] < epochs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size = 1"),
        ({"batch_size": 99}, "number of training examples, 50"),
        ({"epochs": 0}, "epochs = 0"),
        ({"optimizer": "lion"}, "optimizer"),
    ],
)
def test_values_that_are_not_allowed_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ThreeRegimeError, match=message):
        default_retraining(50, False, **options)
