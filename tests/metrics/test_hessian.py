"""The Hessian: against the exact one of a net small enough to write it down."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from threeregime.data import registry
from threeregime.fleet.fleet import Fleet
from threeregime.metrics import hessian
from threeregime.metrics.hessian import Hessian, measure_curvature
from threeregime.pruning.magnitude import Masks, magnitude_masks

DATA = registry.load_images("digits")
SAMPLES, MEMBERS, DENSITY = 100, 3, 0.5


class Tiny(nn.Module):
    """One of each layer, 65 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.norm(self.conv(x))).mean(dim=(2, 3)))


def make(members: int = MEMBERS, backend: str = "grouped") -> tuple[Fleet, Masks]:
    """A fleet in float64 whose statistics are not those of a fresh net."""
    state = Fleet.initial(Tiny, range(MEMBERS), dtype=torch.float64).state()
    noise = torch.Generator().manual_seed(0)
    for tensor in state.values():
        tensor += 0.3 * torch.rand(tensor.shape, generator=noise, dtype=tensor.dtype)
    weights = {"conv.weight": state["conv.weight"]}
    kept = magnitude_masks(weights, ["uniform"] * MEMBERS, [DENSITY] * MEMBERS)
    state["conv.weight"] *= kept["conv.weight"]
    fleet = Fleet(
        Tiny,
        {name: tensor[:members] for name, tensor in state.items()},
        dtype=torch.float64,
        backend=backend,
    )
    return fleet, {name: mask[:members] for name, mask in kept.items()}


@functools.cache
def exact() -> list[Tensor]:
    """The Hessian of each member by PyTorch, rows and columns of pruned weights left out."""
    fleet, kept = make()
    images, labels = next(DATA.evaluation_batches(True, torch.float64, SAMPLES))
    state, net = fleet.state(), Tiny().double().eval()
    sizes = {name: p.shape for name, p in net.named_parameters()}
    found = []
    for member in range(MEMBERS):
        own = {name: tensor[member] for name, tensor in state.items()}

        def loss(flat: Tensor, own: dict[str, Tensor] = own) -> Tensor:
            parts = flat.split([size.numel() for size in sizes.values()])
            given = {n: p.view(s) for p, (n, s) in zip(parts, sizes.items(), strict=True)}
            return F.cross_entropy(functional_call(net, {**own, **given}, images), labels)

        flat = torch.cat([own[name].flatten() for name in sizes])
        stays = torch.cat(
            [
                kept[name][member].flatten() if name in kept else torch.ones(size.numel()) > 0
                for name, size in sizes.items()
            ]
        )
        matrix: Any = torch.autograd.functional.hessian(loss, flat)
        found.append(matrix[stays][:, stays])
    return found


def whole(found: Hessian) -> list[Tensor]:
    """Every member's Hessian column by column, from products with the basis vectors."""
    columns, stays = [], []
    for parameter in found.parameters:
        for index in range(found.fleet.by_member(parameter)[0].numel()):
            vector = [torch.zeros_like(p) for p in found.parameters]
            at = next(i for i, p in enumerate(found.parameters) if p is parameter)
            found.fleet.by_member(vector[at]).flatten(1)[:, index] = 1
            basis = [v * kept for v, kept in zip(vector, found.masks, strict=True)]
            stays.append(found.dot(basis, basis) > 0)
            columns.append(
                torch.cat([found.fleet.by_member(p).flatten(1) for p in found.times(basis)], dim=1)
            )
    matrix, kept = torch.stack(columns, dim=2), torch.stack(stays, dim=1)
    return [m[k][:, k] for m, k in zip(matrix, kept, strict=True)]


@pytest.mark.parametrize("backend", ["grouped", "separate", "planned"])
def test_products_with_all_basis_vectors_are_the_exact_hessian(backend: str) -> None:
    if backend == "planned":  # which has 32 bits only, and hands its state over
        fleet, kept = make()
        lanes = Fleet(Tiny, fleet.state(), backend="planned")
        found, exactness = Hessian(lanes, kept, DATA, SAMPLES), 1e-4
    else:
        found, exactness = Hessian(*make(backend=backend), DATA, SAMPLES), 1e-10
    for got, expected in zip(whole(found), exact(), strict=True):
        assert len(got) == 14 + 6 + 40  # 14 of the 27 weights of the convolution are kept
        torch.testing.assert_close(got.double(), expected, rtol=exactness, atol=exactness)


def test_trace_and_leading_eigenvalue_are_those_of_the_exact_hessian() -> None:
    fleet, kept = make()
    vectors = 100
    got = measure_curvature(fleet, kept, DATA, vectors, SAMPLES)
    for member, matrix in enumerate(exact()):
        off = matrix - matrix.diagonal().diag()
        spread = (2 * off.square().sum() / vectors).sqrt()
        assert abs(got.trace[member] - matrix.trace()) < 3 * spread
        eigenvalues = torch.linalg.eigvalsh(matrix)
        largest = eigenvalues[eigenvalues.abs().argmax()]
        assert float(got.top[member]) == pytest.approx(float(largest), rel=1e-3)


def test_members_do_not_feel_each_other() -> None:
    together, alone = (
        measure_curvature(*make(members), DATA, 3, SAMPLES) for members in (MEMBERS, 1)
    )
    for name in ("trace", "top"):
        got = getattr(together, name)
        assert len(set(got.tolist())) == MEMBERS
        torch.testing.assert_close(got[:1], getattr(alone, name), rtol=1e-9, atol=0)


def test_a_member_that_diverged_has_none_and_harms_no_other() -> None:
    fleet, kept = make()
    healthy = measure_curvature(fleet, kept, DATA, 2, SAMPLES)
    state = fleet.state()
    state["conv.weight"][1, 0] = torch.nan
    broken = measure_curvature(fleet.with_state(state), kept, DATA, 2, SAMPLES)
    assert broken.trace.isnan().tolist() == broken.top.isnan().tolist() == [False, True, False]
    for name in ("trace", "top"):
        torch.testing.assert_close(getattr(broken, name)[::2], getattr(healthy, name)[::2])


def test_batches_do_not_matter_and_the_fleet_stays_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, kept = make()
    before = fleet.state()
    one = measure_curvature(fleet, kept, DATA, 2, SAMPLES)
    monkeypatch.setattr(hessian, "BATCH", 7)
    other = measure_curvature(fleet, kept, DATA, 2, SAMPLES)
    torch.testing.assert_close(one.trace, other.trace)
    torch.testing.assert_close(one.top, other.top)
    assert all(torch.equal(before[name], tensor) for name, tensor in fleet.state().items())
