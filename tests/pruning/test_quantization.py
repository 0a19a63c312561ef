"""Weights of few bits: their levels, training through them, and that they are what is measured."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.cases import with_examples
from tests.helpers.comparing import assert_resumes_exactly, tables
from threeregime.analysis.cells import format_value
from threeregime.data.images import ImageBatches
from threeregime.data.registry import load_images
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.figures.style import axis_label
from threeregime.fleet.cuda_graph import WARM_UP, CudaGraphStep
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet
from threeregime.kernels import find_compiler
from threeregime.models.registry import PreResNet
from threeregime.models.transformer import Transformer
from threeregime.protocol import Pruning, Training
from threeregime.pruning.quantization import CLIPPING, Quantizer, quantize
from threeregime.results import load_results
from threeregime.sweep import compute as cluster
from threeregime.sweep import jobs, resumable
from threeregime.training import run as training
from threeregime.training.run import TrainingRun

quick = settings(max_examples=60, deadline=None, derandomize=True)
BACKENDS = [
    "grouped",
    "separate",
    pytest.param(
        "planned", marks=pytest.mark.skipif(not find_compiler(), reason="no C++ compiler")
    ),
]
SGD = Training(lr=0.05, weight_decay=1e-2, batch_size=32, epochs=3, milestones=(2,))
BITS = [1, 2, 4, None]


def plainly(weight: Tensor, bits: int) -> Tensor:
    """One layer of one net in so many bits, by the definition."""
    if bits == 1:
        return torch.where(weight < 0, -1.0, 1.0) * weight.abs().mean()
    most = 2 ** (bits - 1) - 1
    found = []
    for share in CLIPPING:
        step = share * weight.abs().max() / most
        levels = (weight / step).round().clamp(-most, most)
        found.append(levels * (weight * levels).sum() / (levels * levels).sum())
    return min(found, key=lambda candidate: float((candidate - weight).square().sum()))


def single(weight: Tensor, bits: int) -> Tensor:
    return quantize(weight[None], torch.tensor([bits]))[0]


# --- levels


@quick
@given(st.integers(1, 16), st.integers(2, 400), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_weights_lie_on_so_many_levels(bits: int, count: int, seed: int, size: float) -> None:
    weight = size * torch.randn(count, generator=torch.Generator().manual_seed(seed)).double()
    got = single(weight, bits)
    levels = got.unique()
    assert len(levels) <= 2**bits
    assert (got * weight >= 0).all()  # no weight changes its sign
    if bits == 1:
        assert got.abs().unique() == pytest.approx(float(weight.abs().mean()))
        return
    # integers times a scale: the smallest gap goes into every other
    assert len(levels) <= 2**bits - 1
    unit = got.abs()[got != 0].min()
    scales = unit / torch.arange(1, 2 ** (bits - 1), dtype=torch.float64)
    off = ((got[:, None] / scales).round() * scales - got[:, None]).abs().amax(dim=0)
    assert (off < 1e-9 * size).any()
    # a larger weight does not become a smaller one
    assert (got[weight.argsort()].diff() >= 0).all()
    torch.testing.assert_close(got, plainly(weight, bits), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_that_are_on_levels_stay(bits: int) -> None:
    most = 2 ** (bits - 1) - 1
    weight = 0.37 * torch.arange(-most, most + 1, dtype=torch.float64).repeat(3)
    torch.testing.assert_close(single(weight, bits), weight)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_error_is_close_to_the_least_of_many_clipping_points(bits: int) -> None:
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(1)).double()
    most = 2 ** (bits - 1) - 1
    errors = []
    for clipped in torch.linspace(0.1, 1.0, 200).double() * weight.abs().max():
        step = clipped / most
        errors.append(((weight / step).round().clamp(-most, most) * step - weight).square().sum())
    error = (single(weight, bits) - weight).square().sum()
    assert error < 1.15 * torch.stack(errors).min()


def test_members_have_bits_and_scales_of_their_own() -> None:
    weight = torch.randn(5, 6, 3, 3, 3) * torch.tensor([1, 10, 0.1, 3, 1]).view(5, 1, 1, 1, 1)
    bits = [1, 2, 3, 8, 1]
    together = quantize(weight, torch.tensor(bits))
    for member, own in enumerate(bits):
        torch.testing.assert_close(together[member], single(weight[member], own))
    assert [len(w.abs().unique()) for w in together[:3]] == [1, 2, 4]


def test_zeros_and_numbers_that_are_not_finite() -> None:
    weight = torch.randn(3, 4, 5)
    weight[1] = 0
    weight[2, 0, 0] = torch.nan
    for bits in (1, 2, 8):
        got = quantize(weight, torch.full((3,), bits))
        assert torch.equal(got[1], weight[1])
        assert not got[2].isfinite().any()
        assert got[0].isfinite().all()


# --- training


def build() -> nn.Module:
    return PreResNet(8, 0.25, 1, 10)


def make_run(
    bits: list[int | None], backend: str = "grouped", dtype: torch.dtype = torch.float64
) -> TrainingRun:
    seeds = range(3, 3 + len(bits))
    fleet = Fleet.initial(build, seeds, dtype=dtype, backend=backend)
    loader = ImageBatches(load_images("digits"), seeds, SGD.batch_size, crop=1, flip=False)
    run = TrainingRun(fleet, loader, SGD, Engine(backend))
    run.quantize(bits)
    return run


def steps(run: TrainingRun, count: int) -> dict[str, Tensor]:
    run.fleet.module.train()
    draws = run.loader.draw(0)
    for step in range(count):
        run.step(*run.loader.step_draws(draws, step))
    return run.state()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_fleet_is_each_net_trained_through_its_own_weights(backend: str) -> None:
    """The reference has a latent net and SGD on it; gradients come from a second, quantised one."""
    run = make_run(BITS, backend)
    start = run.fleet.state()
    state = steps(run, 4)
    draws = run.loader.draw(0)
    for member, bits in enumerate(BITS):
        latent, used = build().double(), build().double().train()
        latent.load_state_dict({n: t[member] for n, t in start.items()}, strict=False)
        used.load_state_dict(latent.state_dict())
        optimizer = torch.optim.SGD(latent.parameters(), 0.05, 0.9, weight_decay=1e-2)
        for step in range(4):
            images, labels = run.loader.batch(run.loader.step_draws(draws, step), torch.float64)
            with torch.no_grad():
                for own, weight in zip(used.parameters(), latent.parameters(), strict=True):
                    convolution = weight.dim() == 4 and bits is not None
                    own.copy_(plainly(weight, bits or 0) if convolution else weight)
            used.zero_grad()
            F.cross_entropy(used(images[:, member]), labels[member]).backward()
            for own, weight in zip(used.parameters(), latent.parameters(), strict=True):
                weight.grad = own.grad
            optimizer.step()
        expected = {**used.state_dict(), **dict(latent.named_parameters())}
        for name, tensor in expected.items():
            if not name.endswith("num_batches_tracked"):
                torch.testing.assert_close(state[name][member], tensor, rtol=1e-8, atol=1e-8)


def test_nets_are_quantised_inside_alone_and_latent_otherwise() -> None:
    run = make_run(BITS, dtype=torch.float32)
    before = run.fleet.state()
    with run.evaluated_weights():
        inside = run.fleet.state()
    after = run.fleet.state()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name, tensor in before.items():
        if name in run.fleet.prunable():
            for member, bits in enumerate(BITS[:3]):
                assert bits is not None
                assert len(inside[name][member].unique()) <= 2**bits
            assert torch.equal(inside[name][3], tensor[3])
        else:
            assert torch.equal(inside[name], tensor)
    with pytest.raises(ZeroDivisionError), run.evaluated_weights():
        _ = 1 // 0
    assert all(torch.equal(before[name], t) for name, t in run.fleet.state().items())


def test_without_bits_nothing_is_quantised() -> None:
    run = make_run([None, None])
    assert run.quantizer is None
    before = run.fleet.state()
    with run.evaluated_weights():
        assert all(torch.equal(before[name], t) for name, t in run.fleet.state().items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_going_on_from_a_saved_state_changes_no_bit(backend: str) -> None:
    assert_resumes_exactly(lambda: make_run(BITS, backend, torch.float32))


@pytest.mark.parametrize("backend", ["vmapped", "separate"])
def test_of_a_transformer_it_is_the_linear_layers(backend: str) -> None:
    fleet = Fleet.initial(lambda: Transformer(1, 0.03125, 5, 20), [1, 2], backend=backend)
    before = fleet.state()
    with Quantizer(fleet, [1, 2]).quantized_weights():
        inside = fleet.state()
    layers = {f"{n}.weight" for n, m in fleet.build().named_modules() if isinstance(m, nn.Linear)}
    for name, tensor in before.items():
        if name in layers:
            torch.testing.assert_close(inside[name][1], plainly(tensor[1], 2))
            assert len(inside[name][0].unique()) == 2
        else:
            assert torch.equal(inside[name], tensor)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_recording_quantises_the_weights_of_its_time() -> None:
    """The weights change after the recording, as a step changes them."""
    fleet = Fleet.initial(build, range(len(BITS)), "cuda")
    quantizer = Quantizer(fleet, BITS)
    found = [torch.empty_like(weight) for weight in quantizer.weights]

    def look() -> None:
        with quantizer.quantized_weights():
            for copy, weight in zip(found, quantizer.weights, strict=True):
                copy.copy_(weight.detach())

    recorded = CudaGraphStep(look)
    for _ in range(WARM_UP + 3):
        with torch.no_grad():
            for weight in quantizer.weights:
                weight.add_(0.1 * torch.randn_like(weight))
        recorded()
    got = [copy.clone() for copy in found]
    look()
    assert recorded.graph is not None
    torch.testing.assert_close(got, found)


# --- sweeps


@pytest.fixture
def tiny() -> Experiment:
    fields = {
        "data.images": 160,
        "dense.epochs": 2,
        "dense.milestones": [1],
        "retraining.epochs": 3,
        "retraining.milestones": [2],
        "metrics.points": 3,
        "metrics.early": [1],
        "metrics.hessian": 1,
    }
    experiment = catalogue.load_experiment("quantization", "smoke").with_values(
        epochs=[2], bits=[1, 3]
    )
    return experiment.with_seeds(1, 2).with_fields(fields)


def compute(experiment: Experiment, root: Path, name: str = "grouped") -> bool:
    return cluster.run_sweep(experiment, root, device="cpu", workers=1, engine=name)


def levels(fleet: Fleet) -> list[int]:
    """The largest number of values that a layer has, of every net."""
    state = fleet.state()
    weights = [state[name] for name in fleet.prunable()]
    return [max(len(w[member].unique()) for w in weights) for member in range(fleet.members)]


def test_what_is_measured_has_so_many_levels(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[list[int]]] = {
        name: [] for name in ("evaluate_errors", "measure_pairs", "measure_curvature")
    }
    for name, counts in seen.items():
        measure = getattr(jobs, name)

        def counted(
            fleet: Fleet, *rest: Any, measure: Any = measure, counts: Any = counts, **options: Any
        ) -> Any:
            counts.append(levels(fleet))
            return measure(fleet, *rest, **options)

        monkeypatch.setattr(jobs, name, counted)
    trained: list[list[int]] = []
    save = resumable.ResumableTraining.save

    def saved(self: resumable.ResumableTraining) -> None:
        trained.append(levels(self.run.fleet))
        save(self)

    monkeypatch.setattr(resumable.ResumableTraining, "save", saved)
    assert compute(tiny, tmp_path)
    dense, quantised = seen["evaluate_errors"][:2], seen["evaluate_errors"][2:]
    assert min(itertools.chain(*dense, *trained)) > 100  # the weights of a layer, all different
    # after 1, 2 and 3 epochs and on the training set; 1 and 3 epochs; at the end
    assert len(trained) == 1
    assert quantised == [[2, 2, 7, 7]] * 4
    assert seen["measure_pairs"] == [[2, 2, 7, 7]] * 2
    assert seen["measure_curvature"] == [[2, 2, 7, 7]]
    found = load_results(tiny, tmp_path)
    assert found.nets["bits"].tolist() == [1, 1, 3, 3]
    assert found.early["bits"].tolist() == found.pairs["bits"].tolist() == [1, 3]
    numbers = found.nets[["test_error", "train_error", "hessian_trace"]]
    assert numbers.notna().all(axis=None)


class Killed(BaseException):
    """Ends a run."""


@pytest.mark.parametrize("epoch", with_examples([1, 2], [2]))
def test_a_fleet_that_was_killed_gives_the_same_tables(
    epoch: int, tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compute(tiny, tmp_path / "whole")
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    run_epoch, begun = training.TrainingRun.run_epoch, []

    def killed(run: training.TrainingRun) -> None:
        if run.quantizer:
            begun.append(run.epoch)
            if begun == list(range(epoch + 1)):
                raise Killed
        run_epoch(run)

    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingRun, "run_epoch", killed)
        with pytest.raises(Killed):
            compute(tiny, tmp_path / "killed")
        assert compute(tiny, tmp_path / "killed")
    assert begun == [*range(epoch + 1), *range(epoch, 3)]
    assert tables(tiny, tmp_path / "killed") == tables(tiny, tmp_path / "whole")


def test_fields_and_axis() -> None:
    experiment = catalogue.load_experiment("quantization", "clutter")
    assert experiment.loads == (2, 3, 4, 8)
    for unit in experiment.units():
        assert unit.protocol.pruning == Pruning("quantization", 1.0, bits=int(unit.load))
    assert axis_label("bits") == "Bits a weight"
    assert [format_value("bits", bits) for bits in (1, 2)] == ["1 bit", "2 bits"]
    with pytest.raises(ThreeRegimeError, match=r"^bits = 2.5 is not allowed: a whole number$"):
        experiment.with_values(bits=[2.5])


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, r"bits = None is not allowed: from 1 to 16 with quantization"),
        ({"bits": 0}, r"bits = 0 is not allowed"),
        ({"bits": 17}, r"bits = 17 is not allowed"),
        ({"bits": 4, "density": 0.5}, r"density = 0.5 is not allowed: 1 with quantization"),
        ({"bits": 4, "group": 4}, r"group = 4 is not allowed: .* else left out"),
        ({"bits": 4, "method": "uniform"}, r"bits = 4 is not allowed: .* else left out"),
    ],
)
def test_what_is_not_allowed_is_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ThreeRegimeError, match=rf"^pruning\.{line}[^\n]*$"):
        Pruning(**{"method": "quantization", "density": 1.0, **fields})
