"""Optimizers and schedules on fleets, against the stock ones on plain nets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.comparing import assert_resumes_exactly
from threeregime.data.images import ImageBatches
from threeregime.data.registry import load_images
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet
from threeregime.kernels import find_compiler
from threeregime.models.registry import PreResNet
from threeregime.protocol import Dense, Training
from threeregime.training.run import TrainingRun

SEEDS = [3, 7]
PLAIN = Dense(lr=0.05, weight_decay=1e-3, batch_size=32, epochs=2, milestones=(1,))
BACKENDS = [
    "grouped",
    "separate",
    pytest.param(
        "planned", marks=pytest.mark.skipif(not find_compiler(), reason="no C++ compiler")
    ),
]


def build() -> nn.Module:
    return PreResNet(8, 0.25, 1, 10)


def make_run(training: Training, backend: str = "grouped") -> TrainingRun:
    fleet = Fleet.initial(build, SEEDS, dtype=torch.float64, backend=backend)
    loader = ImageBatches(load_images("digits"), SEEDS, training.batch_size, crop=1, flip=False)
    return TrainingRun(fleet, loader, training, Engine(backend))


def steps(run: TrainingRun, count: int) -> dict[str, Tensor]:
    run.fleet.module.train()
    draws = run.loader.draw(0)
    for step in range(count):
        run.step(*run.loader.step_draws(draws, step))
    return run.state()


def plain_net(run: TrainingRun, member: int) -> nn.Module:
    net = build().double().train()
    net.load_state_dict({n: t[member] for n, t in run.fleet.state().items()}, strict=False)
    return net


def batch(run: TrainingRun, step: int, member: int) -> tuple[Tensor, Tensor]:
    images, labels = run.loader.batch(
        run.loader.step_draws(run.loader.draw(0), step), torch.float64
    )
    return images[:, member], labels[member]


def assert_equal(state: dict[str, Tensor], member: int, net: nn.Module) -> None:
    for name, tensor in net.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(state[name][member], tensor, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_adam_on_a_fleet_is_adam_on_each_net(backend: str) -> None:
    training = replace(PLAIN, optimizer="adam", lr=1e-3)
    run = make_run(training, backend)
    nets = [plain_net(run, member) for member in range(len(SEEDS))]
    state = steps(run, 4)
    for member, net in enumerate(nets):
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3)
        for step in range(4):
            images, labels = batch(run, step, member)
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            optimizer.step()
        assert_equal(state, member, net)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sam_on_a_fleet_is_sam_on_each_net(backend: str) -> None:
    """The reference climbs and comes back by hand; its second pass leaves the statistics alone."""
    rho = 0.3
    run = make_run(replace(PLAIN, rho=rho), backend)
    nets = [plain_net(run, member) for member in range(len(SEEDS))]
    state = steps(run, 3)
    for member, net in enumerate(nets):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for step in range(3):
            images, labels = batch(run, step, member)
            gradients = torch.autograd.grad(
                F.cross_entropy(net(images), labels), list(net.parameters())
            )
            norm = torch.sqrt(torch.stack([g.pow(2).sum() for g in gradients]).sum())
            start = {n: t.clone() for n, t in net.state_dict().items()}
            with torch.no_grad():
                for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                    parameter.add_(gradient, alpha=(rho / norm).item())
            optimizer.zero_grad()
            F.cross_entropy(net(images), labels).backward()
            net.load_state_dict(start)
            optimizer.step()
        assert_equal(state, member, net)


def test_a_radius_of_zero_is_plain_sgd() -> None:
    plain, zero = (steps(make_run(t), 2) for t in (PLAIN, replace(PLAIN, rho=0.0)))
    assert all(torch.equal(plain[name], zero[name]) for name in plain)


@pytest.mark.parametrize("fields", [{"optimizer": "adam"}, {"rho": 0.2}, {}])
def test_training_goes_on_from_a_saved_state(fields: dict[str, Any]) -> None:
    training = replace(PLAIN, **fields)
    assert_resumes_exactly(lambda: make_run(training))


# --- schedules


def test_a_number_of_steps_ends_a_run_inside_an_epoch_and_stretches_its_schedule() -> None:
    digits = load_images("digits")
    training = Training(batch_size=100, epochs=4, milestones=(2, 3), iterations=20)
    assert len(digits.train_labels) // 100 == 7
    run = make_run(training)
    rates: list[float] = []
    run.advance = lambda *_: rates.append(float(run.rate))
    assert run.epochs == 3
    for _ in range(run.epochs):
        run.run_epoch()
    assert rates == pytest.approx([0.1] * 10 + [0.01] * 5 + [0.001] * 5)


def test_a_warm_up_peaks_where_it_says_and_falls_with_the_root() -> None:
    training = Training(lr=0.5, schedule="inverse_sqrt", warmup=4)
    rates = [training.rate(step, 10) for step in range(64)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert max(rates) == rates[3]
    assert rates[15] == pytest.approx(0.25)
    assert rates[63] == pytest.approx(0.125)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"optimizer": "lion"}, r"dense.optimizer = 'lion' is not allowed: one of sgd, adam"),
        ({"schedule": "cosine"}, r"dense.schedule = 'cosine' is not allowed"),
        ({"schedule": "inverse_sqrt"}, r"dense.warmup = 0 is not allowed: 1 or more steps"),
        ({"warmup": 5}, r"dense.warmup = 5 is not allowed"),
        ({"rho": -0.1}, r"dense.rho = -0.1 is not allowed: 0 or more"),
        ({"iterations": 0}, r"dense.iterations = 0 is not allowed"),
        ({"iterations": 9, "stop": 1}, r"dense.stop = 1 is not allowed: left out where"),
    ],
)
def test_what_is_not_allowed_is_one_line(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(ThreeRegimeError, match=line):
        Dense(**fields)


def test_an_axis_is_not_set_as_a_field() -> None:
    experiment = catalogue.load_experiment("figure_02", "smoke")
    with pytest.raises(ThreeRegimeError, match=r"pruning.density is an axis .* --only density="):
        experiment.with_fields({"pruning.density": 0.5})
