"""A fleet is its members: nothing about one depends on who it is with."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from threeregime.data import registry
from threeregime.data.images import Dataset, ImageBatches
from threeregime.fleet.backends import BACKENDS
from threeregime.fleet.fleet import Fleet
from threeregime.kernels import find_compiler
from threeregime.models.registry import NETS, PreResNet
from threeregime.protocol import Training
from threeregime.pruning import magnitude
from threeregime.training.evaluation import evaluate_errors
from threeregime.training.run import TrainingRun

SEEDS = [11, 12, 13, 14, 15]
DENSITIES = [0.05, 0.1, 0.3, 0.7, 1.0]
SGD = Training(epochs=4, milestones=(2,), batch_size=32, weight_decay=2e-3)

# Batch norm does not run vmapped; see test_translation for what does.
backends = pytest.mark.parametrize("backend", sorted(set(BACKENDS) - {"vmapped"}))


def build() -> PreResNet:
    return PreResNet(depth=8, width=0.25, channels=1, classes=10)


@pytest.fixture(autouse=True)
def needs_compiler(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec and callspec.params.get("backend") == "planned" and not find_compiler():
        pytest.skip("no C++ compiler: apt-get install g++")


def make_run(members: list[int], backend: str, dtype: torch.dtype = torch.float64) -> TrainingRun:
    fleet = Fleet.initial(build, [SEEDS[m] for m in members], dtype=dtype, backend=backend)
    loader = ImageBatches(
        registry.load_images("digits"), [SEEDS[m] for m in members], 32, crop=1, flip=True
    )
    run = TrainingRun(fleet, loader, SGD)
    weights = {name: fleet.state()[name] for name in fleet.prunable()}
    methods = [["uniform", "global"][m % 2] for m in members]
    run.prune(magnitude.magnitude_masks(weights, methods, [DENSITIES[m] for m in members]))
    return run


def steps(run: TrainingRun, count: int) -> dict[str, Tensor]:
    run.fleet.module.train()
    draws = run.loader.draw(epoch=0)
    for step in range(count):
        run.step(*run.loader.step_draws(draws, step))
    return run.state()


@backends
def test_a_fleet_of_five_equals_the_five_alone(backend: str) -> None:
    together = steps(make_run([0, 1, 2, 3, 4], backend), 6)
    assert any(name.startswith("optimizer/momentum_buffer/") for name in together)
    assert any(name.endswith("running_var") for name in together)
    for member in range(5):
        alone = steps(make_run([member], backend), 6)
        for name in set(together) - {"epoch"}:
            torch.testing.assert_close(together[name][member], alone[name][0], rtol=1e-9, atol=1e-9)


@backends
def test_a_fleet_of_one_is_the_plain_net_under_torch_optim(backend: str) -> None:
    """The reference is an ordinary module and optimizer: no code of the engine but its batches."""
    run = make_run([4], backend)  # density 1: nothing is pruned
    plain = build().double()
    plain.load_state_dict({n: t[0] for n, t in run.fleet.state().items()}, strict=False)
    optimizer = torch.optim.SGD(
        plain.parameters(), lr=SGD.lr, momentum=SGD.momentum, weight_decay=SGD.weight_decay
    )
    plain.train()
    draws = run.loader.draw(epoch=0)
    for step in range(6):
        images, labels = run.loader.batch(run.loader.step_draws(draws, step), torch.float64)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(images[:, 0]), labels[0]).backward()
        optimizer.step()
    ours = steps(run, 6)
    for name, tensor in plain.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(ours[name][0], tensor, rtol=1e-9, atol=1e-9)


@backends
@pytest.mark.parametrize(
    ("name", "depth", "width", "sides"),
    [
        ("preresnet", 8, 0.25, (8, 8)),
        ("densenet", 10, 0.5, (8, 8)),
        ("densenet", 7, 0.25, (12, 12)),
        ("vgg", 11, 0.05, (8, 8)),
        ("vgg", 13, 0.03, (8, 16)),
    ],
)
def test_a_fleet_of_every_net_is_its_plain_nets(
    name: str, depth: int, width: float, sides: tuple[int, int], backend: str
) -> None:
    def build() -> nn.Module:
        return NETS[name].build(depth, width, 2, 10)

    fleet = Fleet.initial(build, SEEDS[:3], dtype=torch.float64, backend=backend)
    generator = torch.Generator().manual_seed(0)
    images = (256 * torch.rand((24, 2, *sides), generator=generator)).to(torch.uint8)
    labels = torch.arange(24) % 10
    mean, std = (0.5, 0.4), (0.3, 0.2)
    noise = Dataset("noise", images, labels, images, labels, mean, std, classes=10)
    run = TrainingRun(fleet, ImageBatches(noise, SEEDS[:3], 12, crop=1, flip=True), SGD)
    drawn = run.loader.step_draws(run.loader.draw(0), 0)
    images, labels = run.loader.batch(drawn, torch.float64)
    before = fleet.state()
    fleet.module.train()
    logits = fleet.logits(images)
    fleet.load(before)
    run.step(*drawn)
    after = fleet.state()
    for member in range(3):
        plain = build().double()
        plain.load_state_dict({n: t[member] for n, t in before.items()}, strict=False)
        optimizer = torch.optim.SGD(plain.parameters(), SGD.lr, weight_decay=SGD.weight_decay)
        plain.train()
        expected = plain(images[:, member])
        torch.testing.assert_close(logits[member], expected, rtol=1e-9, atol=1e-9)
        torch.nn.functional.cross_entropy(expected, labels[member]).backward()
        optimizer.step()
        for part, tensor in plain.state_dict().items():
            if not part.endswith("num_batches_tracked"):
                torch.testing.assert_close(after[part][member], tensor, rtol=1e-9, atol=1e-9)


@backends
def test_a_diverged_member_does_not_touch_the_others(backend: str) -> None:
    members = [0, 1, 2]
    healthy, ill = make_run(members, backend), make_run(members, backend)
    state = ill.fleet.state()
    state["conv.weight"][1] = torch.nan
    ill.fleet.load(state)
    expected, got = steps(healthy, 3), steps(ill, 3)
    for name in set(expected) - {"epoch"}:
        for member in (0, 2):
            torch.testing.assert_close(got[name][member], expected[name][member])
    error = evaluate_errors(ill.fleet, registry.load_images("digits"), train=False)
    assert error.isnan().tolist() == [False, True, False]
    assert ill.fleet.finite_members().tolist() == [True, False, True]


@backends
def test_masked_weights_and_their_momentum_stay_zero(backend: str) -> None:
    run = make_run([0, 1, 2], backend, dtype=torch.float32)
    before = {name: run.fleet.state()[name] != 0 for name in run.fleet.prunable()}
    for _ in range(2):
        run.run_epoch()
    after = run.state()
    for name, kept in before.items():
        assert (after[name][~kept] == 0).all()
        assert (after[f"optimizer/momentum_buffer/{name}"][~kept] == 0).all()
        assert (after[name][kept] != 0).float().mean() > 0.99


@backends
def test_going_on_from_a_saved_state_changes_no_bit(backend: str) -> None:
    members = [0, 1, 2]
    straight = make_run(members, backend, dtype=torch.float32)
    for _ in range(3):
        straight.run_epoch()
    first = make_run(members, backend, dtype=torch.float32)
    first.run_epoch()
    second = make_run(members, backend, dtype=torch.float32)
    second.load(first.state())
    for _ in range(2):
        second.run_epoch()
    for name, tensor in straight.state().items():
        assert torch.equal(tensor, second.state()[name]), name


def test_both_mechanisms_compute_the_same_in_float64() -> None:
    if not find_compiler():
        pytest.skip("no C++ compiler: apt-get install g++")
    grouped, in_lanes = (steps(make_run([0, 1, 2, 3, 4], m), 4) for m in ("grouped", "planned"))
    for name, tensor in grouped.items():
        torch.testing.assert_close(in_lanes[name], tensor, rtol=1e-9, atol=1e-9)


def test_data_order_and_augmentation_do_not_depend_on_companions() -> None:
    digits = registry.load_images("digits")
    alone = ImageBatches(digits, [7], 32, crop=1, flip=True)
    together = ImageBatches(digits, [3, 7, 9], 32, crop=1, flip=True)
    for epoch in (0, 5):
        one, all_ = alone.draw(epoch), together.draw(epoch)
        images, labels = alone.batch(alone.step_draws(one, 2), torch.float32)
        more, more_labels = together.batch(together.step_draws(all_, 2), torch.float32)
        assert torch.equal(images[:, 0], more[:, 1])
        assert torch.equal(labels[0], more_labels[1])
        assert not torch.equal(images[:, 0], more[:, 0])
    assert not torch.equal(alone.draw(0)[0], alone.draw(1)[0])


@pytest.mark.parametrize(
    ("capability", "backend", "enabled"),
    [
        ("AVX2", "separate", False),
        ("AVX2", "grouped", True),  # grouped convolutions are computed by other code
        ("AVX512", "separate", True),
    ],
)
def test_onednn_is_avoided_where_its_gradients_are_faulty(
    capability: str, backend: str, enabled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    before = torch._C._get_mkldnn_enabled()
    torch.backends.mkldnn.set_flags(_enabled=True)
    try:
        make_run([0, 1], backend)
        assert torch._C._get_mkldnn_enabled() == enabled
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before)


@pytest.mark.parametrize("channels", [3, 4, 8])
def test_gradients_of_strided_pointwise_convolutions_are_those_of_float64(channels: int) -> None:
    """Where oneDNN is faulty, it aborts the process here."""

    def gradient(dtype: torch.dtype) -> Tensor:
        torch.manual_seed(0)
        build = functools.partial(nn.Conv2d, channels, 8, 1, stride=2)
        Fleet.initial(build, [0], backend="separate")
        layer = build().to(dtype)
        images = torch.randn(32, channels, 8, 8).to(dtype, memory_format=torch.channels_last)
        for _ in range(100):
            layer.zero_grad()
            layer(images).square().sum().backward()
        assert layer.weight.grad is not None
        return layer.weight.grad.double()

    torch.testing.assert_close(
        gradient(torch.float32), gradient(torch.float64), rtol=1e-3, atol=1e-2
    )
