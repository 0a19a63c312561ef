"""The training loop: what it restores, when it calls back, and what a member depends on."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from threeregime.data import Dataset, load_images
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import Engine, Fleet, State
from threeregime.models import PreResNet
from threeregime.protocol import Dense
from threeregime.pruning import prune_masks
from threeregime.training import Callback, TrainingRun, train

RECIPE = Dense(lr=0.05, batch_size=32, epochs=3, milestones=(2,))
STEPS = 5
SEEDS = [3, 7]


class WithDropout(nn.Module):
    """A linear net, half of whose inputs are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@functools.cache
def digits() -> Dataset:
    """160 digits: five steps an epoch."""
    return load_images("digits").reduced(160, None).augmented(1, False)


def build() -> nn.Module:
    return PreResNet(8, 0.25, 1, 10)


def make_fleet(seeds: list[int] = SEEDS) -> Fleet:
    return Fleet.initial(build, seeds)


def assert_equal(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Failing(Callback):
    def on_epoch_end(self, run: TrainingRun) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("mode", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_mode_random_state_and_threads_are_as_before(
    mode: bool, fails: bool, threads: None
) -> None:
    fleet = Fleet.initial(WithDropout, SEEDS, backend="separate")
    fleet.module.train(mode)
    fleet.module.get_submodule("layers.2").train(not mode)
    modes = [layer.training for layer in fleet.module.modules()]
    state, start = torch.get_rng_state(), fleet.state()
    try:
        callback = Failing() if fails else None
        train(fleet, digits(), RECIPE, SEEDS, epochs=1, callback=callback)
    except ZeroDivisionError:
        assert fails
    assert [layer.training for layer in fleet.module.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == 2
    assert not torch.equal(fleet.state()["layers.2.weight"], start["layers.2.weight"])


def test_dropout_draws_from_the_global_random_state() -> None:
    states = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        fleet = Fleet.initial(WithDropout, SEEDS, backend="separate")
        train(fleet, digits(), RECIPE, SEEDS, epochs=1)
        states.append(fleet.state()["layers.2.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


class Recorder(Callback):
    """Records calls; may stop before an epoch, or save and load a state."""

    def __init__(self, last: int = 99, state: State | None = None) -> None:
        self.calls: list[str] = []
        self.last, self.state = last, state

    def on_start(self, run: TrainingRun) -> None:
        self.calls.append(f"start {run.epoch}")
        if self.state is not None:
            run.load(self.state)

    def may_continue(self, run: TrainingRun) -> bool:
        self.calls.append(f"continue {run.epoch}")
        return run.epoch < self.last

    def on_epoch_end(self, run: TrainingRun) -> None:
        self.calls.append(f"epoch {run.epoch}")

    def on_step_end(self, run: TrainingRun) -> None:
        self.calls.append("step")


def test_callbacks_come_in_order() -> None:
    recorder = Recorder(last=2)
    run = train(make_fleet(), digits(), RECIPE, SEEDS, callback=recorder)
    epochs = [[f"continue {n}", *["step"] * STEPS, f"epoch {n + 1}"] for n in range(2)]
    assert recorder.calls == ["start 0", *epochs[0], *epochs[1], "continue 2"]
    assert (run.epoch, run.epochs) == (2, 3)


def test_no_epochs_prune_and_train_nothing() -> None:
    fleet, recorder = make_fleet(), Recorder()
    masks, start = prune_masks(fleet, 0.3), fleet.state()
    run = train(fleet, digits(), RECIPE, SEEDS, masks=masks, epochs=0, callback=recorder)
    assert run.epoch == 0
    assert recorder.calls == ["start 0"]
    for name, tensor in fleet.state().items():
        assert torch.equal(tensor, start[name] * masks[name] if name in masks else start[name])


def test_a_run_resumes_through_on_start() -> None:
    whole, first, second = (make_fleet() for _ in range(3))
    train(whole, digits(), RECIPE, SEEDS)
    state = train(first, digits(), RECIPE, SEEDS, epochs=1).state()
    recorder = Recorder(state=state)
    run = train(second, digits(), RECIPE, SEEDS, callback=recorder)
    assert run.epoch == 3
    assert [call for call in recorder.calls if "epoch" in call] == ["epoch 2", "epoch 3"]
    assert_equal(second.state(), whole.state())


def test_masks_hold_to_the_end() -> None:
    fleet = make_fleet()
    masks = prune_masks(fleet, [0.1, 0.5])
    start = fleet.state()
    train(fleet, digits(), RECIPE, SEEDS, masks=masks)
    for name, mask in masks.items():
        weight = fleet.state()[name]
        assert torch.equal(weight != 0, mask)
        assert not torch.equal(weight, start[name] * mask)


def test_bits_train_latent_weights_and_evaluate_quantized_ones() -> None:
    fleet = make_fleet()
    run = train(fleet, digits(), RECIPE, SEEDS, bits=[1, None], epochs=1)
    name = next(iter(fleet.prunable()))
    latent = fleet.state()[name]
    with run.evaluated_weights():
        quantized = fleet.state()[name]
    assert len(latent[0].unique()) > 2
    assert len(quantized[0].unique()) == 2
    assert torch.equal(quantized[1], latent[1])
    plain = make_fleet()
    train(plain, digits(), RECIPE, SEEDS, epochs=1)
    assert not torch.equal(plain.state()[name][0], latent[0])
    torch.testing.assert_close(plain.state()[name][1], latent[1])


def test_two_members_equal_each_trained_alone() -> None:
    together = make_fleet()
    masks = prune_masks(together, 0.4)
    train(together, digits(), RECIPE, SEEDS, masks=masks)
    for member, seed in enumerate(SEEDS):
        alone = make_fleet([seed])
        one = {name: mask[member : member + 1] for name, mask in masks.items()}
        train(alone, digits(), RECIPE, [seed], masks=one)
        for name, tensor in alone.state().items():
            expected = together.state()[name][member]
            torch.testing.assert_close(tensor[0], expected, rtol=1e-3, atol=1e-4)
        start = make_fleet([seed]).state()["linear.weight"]
        assert (alone.state()["linear.weight"] - start).abs().max() > 0.01


def test_the_engine_gives_the_precision() -> None:
    run = train(
        make_fleet(), digits(), RECIPE, SEEDS, engine=Engine("grouped", "bfloat16"), epochs=0
    )
    assert run.low_precision == torch.bfloat16


def test_a_batch_above_the_training_split_is_refused() -> None:
    with pytest.raises(ThreeRegimeError, match=r"batch_size = 161 is not allowed: digits has 160"):
        train(make_fleet(), digits(), replace(RECIPE, batch_size=161), SEEDS)
