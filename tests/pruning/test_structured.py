"""N:M sparsity: the largest of each group stay, and groups are where hardware has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.fleet.fleet import Fleet
from threeregime.models.registry import PreResNet
from threeregime.protocol import Pruning
from threeregime.pruning.magnitude import magnitude_masks
from threeregime.results import load_results
from threeregime.sweep import compute, jobs

quick = settings(max_examples=60, deadline=None, derandomize=True)
shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 9)),
    st.tuples(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 3]), st.just(2)),
)


def mask_of(weight: Tensor, count: int, group: int) -> Tensor:
    kept = magnitude_masks({"layer": weight[None]}, ["n:m"], [count / group], [group])
    return kept["layer"][0]


def by_hand(weight: Tensor, count: int, group: int) -> Tensor:
    """The same, weight by weight: where each lies, and how many of its group are before it."""
    mask = torch.zeros_like(weight, dtype=torch.bool)
    for output in range(len(weight)):
        places = (
            [
                (channel, *kernel)
                for kernel in torch.cartesian_prod(*map(torch.arange, weight.shape[2:])).tolist()
                for channel in range(weight.shape[1])
            ]
            if weight.dim() == 4
            else [(channel,) for channel in range(weight.shape[1])]
        )
        for start in range(0, len(places), group):
            here = places[start : start + group]
            share = -(-count * len(here) // group)
            # sorted() keeps the order of equals
            for place in sorted(here, key=lambda p: -abs(float(weight[output, *p])))[:share]:
                mask[output, *place] = True
    return mask


@quick
@given(shapes, st.integers(2, 8), st.data())
def test_each_group_keeps_its_largest(
    shape: tuple[int, ...], group: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, group))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    # few magnitudes: many are equal, of which the first stays
    weight = torch.randint(-3, 4, shape, generator=generator).float()
    assert torch.equal(mask_of(weight, count, group), by_hand(weight, count, group))
    weight = torch.randn(shape, generator=generator)
    assert torch.equal(mask_of(weight, count, group), by_hand(weight, count, group))


def test_two_of_four_as_hardware_has_them() -> None:
    """Channels last in memory: each four neighbours of an output hold two weights, no more."""
    torch.manual_seed(0)
    weight = torch.randn(8, 16, 3, 3)
    mask = mask_of(weight, 2, 4)
    in_memory = mask.permute(0, 2, 3, 1).reshape(-1, 4)
    assert (in_memory.sum(dim=1) == 2).all()
    size = weight.abs().permute(0, 2, 3, 1).reshape(-1, 4)
    least = size.masked_fill(~in_memory, torch.inf).amin(dim=1)
    most = size.masked_fill(in_memory, -torch.inf).amax(dim=1)
    assert (least >= most).all()
    # another order is another mask
    assert not (mask.reshape(-1, 4).sum(dim=1) == 2).all()


def test_on_a_net_of_the_digits() -> None:
    fleet = Fleet.initial(lambda: PreResNet(20, 0.25, 1, 10), seeds=[0, 1, 2])
    state = fleet.state()
    weights = {name: state[name] for name in fleet.prunable()}
    plan = (["n:m", "uniform", "n:m"], [0.25, 0.25, 0.5], [4, None, 16])
    kept = magnitude_masks(weights, *plan)
    # nine inputs to an output of the first convolution: of groups of 4, 4 and 1 one each stays
    assert kept["conv.weight"][0].flatten(1).sum(dim=1).tolist() == [3] * 4
    assert kept["conv.weight"][2].flatten(1).sum(dim=1).tolist() == [5] * 4
    for name, mask in kept.items():
        if mask[0, 0].numel() % 16 == 0:
            assert mask[0].float().mean() == 0.25
            assert mask[2].float().mean() == 0.5
        alone = magnitude_masks({name: weights[name][2:]}, ["n:m"], [0.5], [16])
        assert torch.equal(alone[name][0], mask[2])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"density": 0.3, "group": 4}, r"density = 0.3 is not allowed: a multiple of 1/4, whole"),
        ({"density": 0.05, "group": 16}, r"density = 0.05 is not allowed: a multiple of 1/16"),
        ({"density": 0.01, "group": 2}, r"density = 0.01 is not allowed: a multiple of 1/2"),
        ({"density": 0.5}, r"group = None is not allowed: 2 or more weights with n:m"),
        ({"density": 1.0, "group": 1}, r"group = 1 is not allowed: 2 or more"),
        (
            {"method": "uniform", "group": 4},
            r"group = 4 is not allowed: .* with n:m, else left out",
        ),
    ],
)
def test_what_is_not_allowed_is_one_line(fields: dict[str, object], line: str) -> None:
    with pytest.raises(ThreeRegimeError, match=rf"^pruning\.{line}[^\n]*$"):
        Pruning(**{"method": "n:m", **fields})  # type: ignore[arg-type]


def test_masks_of_groups_need_their_size() -> None:
    with pytest.raises(ThreeRegimeError, match=r"^group = None is not allowed: 2 or more"):
        magnitude_masks({"layer": torch.ones(1, 2, 2)}, ["n:m"], [0.5])


def test_whole_shares_are_allowed_up_to_rounding() -> None:
    for group, count in ((3, 1), (3, 2), (7, 5), (10, 3), (16, 16)):
        made = Pruning("n:m", count / group, group)
        assert mask_of(torch.randn(2, group), count, group).sum() == 2 * count
        assert made.group == group


@pytest.mark.parametrize("name", ["structured_4", "structured_16"])
def test_an_experiment_at_smoke_scale(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a dense net to the tables; pruned weights, and no others, are zero all the way."""
    experiment = catalogue.load_experiment(name, "smoke").with_values(epochs=[2]).with_seeds(1, 2)
    experiment = experiment.with_fields({"data.images": 160})
    seen: list[dict[str, Tensor]] = []
    measure = jobs.measure_pairs

    def measured(fleet: Fleet, *arguments: object) -> object:
        seen.append({n: fleet.state()[n] for n in fleet.prunable()})
        return measure(fleet, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(jobs, "measure_pairs", measured)
    assert compute.run_sweep(experiment, tmp_path, device="cpu", workers=1, engine="grouped")
    found = load_results(experiment, tmp_path)
    assert found.nets["density"].tolist() == [d for d in experiment.loads for _ in range(2)]
    assert found.pairs["lmc"].notna().all()
    group = experiment.protocol.pruning.group
    assert group
    [nets] = seen
    for name_, weight in nets.items():
        for member, density in enumerate(found.nets["density"]):
            kept = weight[member] != 0
            rows = kept.movedim(1, -1).flatten(1)
            whole = rows[:, : rows.shape[1] // group * group].unflatten(1, (-1, group))
            assert (whole.sum(dim=2) == density * group).all(), name_
