"""Magnitude pruning: what is kept is the largest, as many as were asked for, always the same."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from threeregime.errors import ThreeRegimeError
from threeregime.fleet.fleet import Fleet
from threeregime.models.registry import PreResNet
from threeregime.pruning.magnitude import magnitude_masks

quick = settings(max_examples=60, deadline=None, derandomize=True)
shapes = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 5), st.sampled_from([1, 3]), st.just(1)),
    min_size=1,
    max_size=4,
)
densities = st.floats(0.001, 1.0)


def layers(shapes: list[tuple[int, ...]], seed: int, members: int = 1) -> dict[str, Tensor]:
    """Weights [members, ...] of several layers, each with its own scale."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"layer{i}": torch.randn(members, *shape, generator=generator) * 10.0**-i
        for i, shape in enumerate(shapes)
    }


def flat(weights: dict[str, Tensor], member: int = 0) -> Tensor:
    return torch.cat([tensor[member].flatten() for tensor in weights.values()])


@quick
@given(shapes, densities, st.integers(0, 1000))
def test_uniform_keeps_its_share_of_the_largest_of_every_layer(
    shapes: list[tuple[int, ...]], density: float, seed: int
) -> None:
    weights = layers(shapes, seed)
    kept = magnitude_masks(weights, ["uniform"], [density])
    for name, weight in weights.items():
        mask = kept[name]
        assert mask.shape == weight.shape
        assert mask.dtype == torch.bool
        count = int(mask.sum())
        assert count >= 1
        # within one weight of what was asked for, and no further than rounding takes it
        assert abs(count - density * weight.numel()) <= (0.5 if density * weight.numel() > 1 else 1)
        if count < weight.numel():
            assert weight[mask].abs().min() >= weight[~mask].abs().max()


@quick
@given(shapes, densities, st.integers(0, 1000))
def test_global_keeps_its_share_of_the_largest_of_all(
    shapes: list[tuple[int, ...]], density: float, seed: int
) -> None:
    weights = layers(shapes, seed)
    kept = magnitude_masks(weights, ["global"], [density])
    every = flat(weights)
    asked = round(density * len(every))
    assert int(flat(kept).sum()) == max(len(shapes), asked)
    for name, weight in weights.items():
        assert kept[name].shape == weight.shape
        assert kept[name].flatten()[weight.abs().argmax()]  # at least one a layer: its largest
    # Beyond the largest of each layer, one threshold holds over all of them.
    largest = torch.cat([w.abs().flatten() == w.abs().max() for w in weights.values()])
    chosen, left = flat(kept) & ~largest, ~flat(kept)
    if chosen.any() and left.any():
        assert every[chosen].abs().min() >= every[left].abs().max()


@quick
@given(st.sampled_from(["uniform", "global"]), densities, st.integers(1, 3), st.integers(0, 1000))
def test_ties_go_to_the_first_and_masks_are_always_the_same(
    method: str, density: float, values: int, seed: int
) -> None:
    """Weights with few different magnitudes: most of them are ties."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randint(-values, values + 1, (1, *shape), generator=generator).float()
        for name, shape in (("a", (4, 3, 3, 3)), ("b", (8, 4, 1, 1)))
    }
    first = magnitude_masks(weights, [method], [density])
    again = magnitude_masks({name: w.clone() for name, w in weights.items()}, [method], [density])
    assert all(torch.equal(first[name], again[name]) for name in weights)
    counts = [int(mask.sum()) for mask in first.values()]
    if method == "uniform":
        assert counts == [max(1, round(density * w.numel())) for w in weights.values()]
        for name, weight in weights.items():
            size, mask = weight.abs().flatten(), first[name].flatten()
            at_the_edge = mask[size == size[mask].min()]
            assert (at_the_edge.int().diff() <= 0).all()
    else:
        assert sum(counts) == max(2, round(density * 140))


def test_methods_and_densities_are_each_members_own() -> None:
    weights = layers([(4, 3, 3, 3), (8, 4, 3, 3)], seed=3, members=4)
    plan = [("uniform", 0.1), ("global", 0.1), ("uniform", 0.5), ("global", 1.0)]
    together = magnitude_masks(
        weights, [method for method, _ in plan], [density for _, density in plan]
    )
    for member, (method, density) in enumerate(plan):
        alone = magnitude_masks(
            {n: w[member : member + 1] for n, w in weights.items()}, [method], [density]
        )
        assert all(torch.equal(together[name][member], alone[name][0]) for name in weights)
    assert all(mask[3].all() for mask in together.values())
    # the second layer's weights are ten times smaller: the methods differ in what they leave of it
    assert together["layer1"][1].sum() < together["layer1"][0].sum() / 4


def test_counts_on_the_papers_net() -> None:
    fleet = Fleet.initial(lambda: PreResNet(20, 1.0, 3, 10), seeds=[0, 0])
    state = fleet.state()
    weights = {name: state[name] for name in fleet.prunable()}
    # every convolution, the first and the shortcuts too; the linear layer is left whole
    assert len(weights) == 21
    assert sum(w[0].numel() for w in weights.values()) == 270_256
    assert "conv.weight" in weights
    assert not any("linear" in name or "norm" in name for name in weights)
    kept = magnitude_masks(weights, ["uniform", "global"], [0.05, 0.05])
    for name, mask in kept.items():
        assert abs(int(mask[0].sum()) - 0.05 * mask[0].numel()) <= 0.5
        assert mask[1].any(), name
    assert int(flat(kept, member=1).sum()) == round(0.05 * 270_256)


def test_the_digits_first_convolution_keeps_two_weights_at_five_percent() -> None:
    fleet = Fleet.initial(lambda: PreResNet(20, 0.25, 1, 10), seeds=[0])
    kept = magnitude_masks({"conv.weight": fleet.state()["conv.weight"]}, ["uniform"], [0.05])
    assert kept["conv.weight"].numel() == 36
    assert int(kept["conv.weight"].sum()) == 2


def test_a_layer_that_one_threshold_would_empty_keeps_its_largest_weight() -> None:
    weights = {
        "large": torch.arange(1.0, 101.0).view(1, 10, 10),
        "tiny": torch.tensor([[1e-6, -3e-6, 2e-6]]),
    }
    kept = magnitude_masks(weights, ["global"], [0.1])
    assert kept["tiny"].tolist() == [[False, True, False]]
    assert int(kept["large"].sum()) == 9  # 10 of 103 were asked for
    assert kept["large"].flatten()[-9:].all()


def test_a_net_that_diverged_still_has_masks() -> None:
    weights = layers([(4, 3, 3, 3), (8, 4, 3, 3)], seed=3, members=2)
    healthy = magnitude_masks(weights, ["global", "uniform"], [0.1, 0.1])
    broken = {name: w.clone() for name, w in weights.items()}
    for weight in broken.values():
        weight[1] = math.nan
    kept = magnitude_masks(broken, ["global", "uniform"], [0.1, 0.1])
    for name in weights:
        assert torch.equal(kept[name][0], healthy[name][0])
        assert kept[name].sum() == healthy[name].sum()


def test_masks_survive_a_file_exactly(tmp_path: Path) -> None:
    kept = magnitude_masks(
        layers([(4, 3, 3, 3), (8, 4, 1, 1)], 1, members=2), ["uniform", "global"], [0.3, 1]
    )
    save_file(kept, tmp_path / "masks.safetensors")
    loaded = load_file(tmp_path / "masks.safetensors")
    assert set(loaded) == set(kept)
    for name, mask in kept.items():
        assert loaded[name].dtype == torch.bool
        assert torch.equal(loaded[name], mask)


def test_pruning_leaves_its_input_alone() -> None:
    weights = layers([(4, 3, 3, 3), (8, 4, 3, 3)], seed=3)
    before = {name: w.clone() for name, w in weights.items()}
    magnitude_masks(weights, ["global"], [0.1])
    magnitude_masks(weights, ["uniform"], [0.1])
    assert all(torch.equal(before[name], w) for name, w in weights.items())


@pytest.mark.parametrize("density", [0.0, -0.1, 1.5, math.nan])
def test_densities_outside_their_range_are_refused(density: float) -> None:
    with pytest.raises(ThreeRegimeError, match=r"density = .* a fraction in \(0, 1\]"):
        magnitude_masks(layers([(2, 2, 1, 1)], seed=0), ["uniform"], [density])


def test_unknown_methods_are_refused() -> None:
    with pytest.raises(ThreeRegimeError, match=r"'random' is not allowed: uniform, global"):
        magnitude_masks(layers([(2, 2, 1, 1)], seed=0), ["random"], [0.5])
