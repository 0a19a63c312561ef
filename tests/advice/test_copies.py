"""The retrained copies: trained as plain PyTorch trains, or by the user's function."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.advice.examples import (
    ask,
    build_net,
    digits,
    line,
    live,
    mlp,
    normed,
    pictures,
    plain,
    trained,
)
from threeregime.advice import advisor
from threeregime.advice.candidates import LiveTrials
from threeregime.advice.judgement import DenseErrors, Evidence
from threeregime.data.task import stream_seed
from threeregime.errors import ThreeRegimeError
from threeregime.training import RATES


@pytest.mark.parametrize("build", [plain, line])
def test_each_copy_is_the_net_trained_alone_in_the_same_order(
    build: Callable[[], nn.Module],
) -> None:
    """The reference: an ordinary module, optimizer and mask; of the engine but the order."""
    model, data = build_net(build), pictures()
    trials = live(model, data)
    fleet = trials._fleet("it", trials.copies)
    trials._train(fleet, "it", 2)
    together = {name.removeprefix("net."): tensor for name, tensor in fleet.state().items()}
    prunable = [name.removeprefix("net.") for name in trials.net.prunable]
    masks = {n: together[n][0] != 0 for n in prunable}
    split = trials.task.train
    for number in range(2):
        alone = copy.deepcopy(model).train()
        named = dict(alone.named_parameters())
        optimizer = torch.optim.Adam(alone.parameters(), lr=trials.recipe.lr)
        for name, mask in masks.items():
            named[name].data *= mask
            assert int(mask.sum()) == max(1, round(0.3 * mask.numel()))
        for epoch in range(2):
            seed = stream_seed(stream_seed("copy", 0, number), epoch)
            order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
            optimizer.param_groups[0]["lr"] = trials.recipe.lr * (0.1 if epoch else 1)
            for batch in order.split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(
                    alone(split.inputs[batch]), split.targets[batch]
                ).backward()
                for name, mask in masks.items():
                    grad = named[name].grad
                    assert grad is not None
                    grad *= mask
                optimizer.step()
        for name, tensor in alone.state_dict().items():
            if name in together:
                torch.testing.assert_close(together[name][number], tensor, rtol=2e-4, atol=2e-5)
        for name, mask in masks.items():
            assert (together[name][number][~mask] == 0).all()


def test_identical_copies_are_connected_and_alike() -> None:
    trials = live(build_net(plain), pictures())
    evidence = trials._measure(trials._fleet("it", 2))
    assert evidence.lmc == 0
    assert evidence.cka == pytest.approx(1)
    assert len(set(evidence.curve[0])) == 1


def test_dense_errors_are_those_of_the_model() -> None:
    model, (inputs, labels) = build_net(line), pictures()
    trials = live(model, (inputs, labels))
    with torch.no_grad():
        outputs = model.eval()(inputs)
    wrong = (outputs.argmax(1) != labels).double().mean()
    assert trials.dense_error("it") == pytest.approx(float(wrong))
    dense = trials.dense["it"]
    assert dense.classes == tuple(outputs.argmax(1).bincount(minlength=4).tolist())
    assert dense.confidence == pytest.approx(float(outputs.softmax(1).amax(1).mean()), abs=1e-5)


def test_more_copies_make_more_pairs() -> None:
    evidence = ask(build_net(mlp), pictures(), copies=3).evidence[advisor.OWN]
    assert (len(evidence.curve), len(evidence.train)) == (3, 3)


@pytest.mark.parametrize("build", [plain, line])
def test_the_bar_ends_at_its_total(build: Callable[[], nn.Module]) -> None:
    trials = live(build_net(build), pictures(100), copies=3)
    trials.retrain("it", 2)
    assert trials.bar.n == trials.work() <= trials.bar.total
    assert trials.seconds_per_work() > 0


# --- the recipe


def test_the_recipe_can_be_given() -> None:
    given = {"optimizer": "sgd", "lr": 0.02, "weight_decay": 1e-3, "batch_size": 8}
    answer = ask(build_net(mlp), pictures(), **given)
    assert {name: answer.retraining[name] for name in given} == given
    assert "rate 0.02, weight decay 0.001; seed 0" in str(answer)


def test_a_rate_is_found_once_and_told() -> None:
    answer = ask(build_net(mlp), pictures())
    assert answer.retraining["lr"] in RATES["adam"]
    assert f"rate {answer.retraining['lr']:g}" in str(answer)
    states = trained(mlp, pictures(), (2, 8))
    several = ask(build_net(mlp), pictures(), checkpoints=states)
    assert several.retraining["lr"] in RATES["adam"]


def test_a_rate_that_diverges_later_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, seen = LiveTrials._measure, []

    def diverged(self: LiveTrials, fleet: Any, dense: Any) -> Evidence:
        seen.append(self.recipe.lr)
        evidence = measure(self, fleet, dense)
        return replace(evidence, lmc=math.nan) if len(seen) < 3 else evidence

    monkeypatch.setattr(LiveTrials, "_measure", diverged)
    answer = ask(build_net(mlp), pictures())
    assert seen == sorted(RATES["adam"])[::-1][:3]
    assert answer.retraining["lr"] == seen[-1]
    seen.clear()
    with pytest.raises(ThreeRegimeError, match=r"diverged in retraining: give a lower lr than"):
        ask(build_net(mlp), pictures(), lr=0.01)


@pytest.mark.parametrize(("count", "held_out"), [(45, 0), (50, 10), (64, 13)])
def test_examples_are_held_out_where_enough_remain(count: int, held_out: int) -> None:
    answer = ask(build_net(mlp), pictures(count))
    assert answer.examples["held_out"] == held_out
    assert answer.examples["train"] == count - held_out
    assert "few examples" not in [finding.name for finding in answer.findings]


def test_a_users_own_training_retrains_the_copies() -> None:
    inputs, labels = pictures()
    seeds: list[int] = []

    def retrain(net: nn.Module, seed: int) -> None:
        assert isinstance(net, nn.Sequential)
        seeds.append(seed)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        for batch in torch.randperm(64).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        assert int((net[1].get_parameter("weight") == 0).sum()) == 384 - round(0.3 * 384)

    answer = ask(build_net(mlp), (inputs, labels), retrain=retrain)
    assert len(set(seeds)) == 2
    assert "Retrained: 2 copies by retrain." in str(answer)
    evidence = answer.evidence[advisor.OWN]
    assert len(set(evidence.curve[0])) > 1
    assert ask(build_net(mlp), (inputs, labels), retrain=retrain).evidence == answer.evidence


def test_errors_of_a_users_training_are_one_line() -> None:
    def retrain(net: nn.Module) -> None: ...

    with pytest.raises(ThreeRegimeError, match="your retraining failed: TypeError"):
        ask(build_net(mlp), pictures(), retrain=retrain)


# --- several checkpoints


def test_the_best_dense_net_is_pruned_where_its_copies_are_connected() -> None:
    states = trained(plain, pictures(), (0, 12))
    advice = ask(build_net(plain), pictures(), checkpoints=states, density=0.5, epochs=2)
    assert (advice.chosen, advice.rule) == ("epoch_12", "Algorithm 2.1")
    # The net that is fitted least shows what can be learned of the held-out examples.
    assert list(advice.evidence) == ["epoch_12", "epoch_0"]
    assert "There are no test data" in str(advice)
    assert "dense held-out error" in str(advice)


def test_all_are_retrained_if_asked_for() -> None:
    states = trained(plain, pictures(), (0, 4, 12))
    asked = {"checkpoints": states, "density": 0.5, "epochs": 2}
    data = {"test_data": pictures(seed=1)}
    few = ask(build_net(plain), pictures(), **asked, **data)
    assert (few.rule, len(few.evidence)) == ("Algorithm 2", 1)
    assert "dense test error" in str(few)
    answer = ask(build_net(plain), pictures(), **asked, **data, retrain_all=True)
    assert (answer.rule, list(answer.evidence)) == ("grid search", list(states))
    errors = {name: sum(seen.errors) for name, seen in answer.evidence.items()}
    assert answer.chosen == min(errors, key=lambda name: errors[name])
    alone = {**data, "checkpoints": {"a": states["epoch_4"]}}
    for missing in (asked, data, alone):
        with pytest.raises(ThreeRegimeError, match="retrain_all = True is not allowed: give test"):
            ask(build_net(plain), pictures(), **missing, retrain_all=True)


def test_in_regime_i_all_are_retrained_and_the_rule_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure = LiveTrials._measure

    def poor(self: LiveTrials, fleet: Any, dense: Any) -> Evidence:
        evidence = measure(self, fleet, dense)
        cka = 0.5 + len(self.evidence) / 10
        return replace(evidence, lmc=-0.5, cka=cka, train=(0.1, 0.1))

    monkeypatch.setattr(LiveTrials, "_measure", poor)
    states = trained(mlp, pictures(), (1, 8, 16))
    nan = {name: torch.full_like(t, torch.nan) for name, t in states["epoch_1"].items()}
    advice = ask(build_net(mlp), pictures(), checkpoints={"ill": nan, **states})
    # The diverged one is passed over; the last one retrained has the highest CKA.
    assert set(advice.evidence) == {"epoch_1", "epoch_8", "epoch_16"}
    assert advice.chosen == list(advice.evidence)[-1]
    assert advice.turn == "hotter"
    assert "unknown (diverged)" in str(advice)


def test_checkpoints_that_were_tried_tell_the_direction() -> None:
    data = pictures()
    states = trained(mlp, data, (1, 4, 16))
    model = build_net(mlp)
    answer = ask(model, data, test_data=pictures(seed=1), checkpoints=states, density=0.5)
    trials = SimpleNamespace(task=SimpleNamespace(test=data))
    dense = {"hot": 0.4, "mid": 0.2, "cold": 0.1}
    errors = {"hot": 0.3, "mid": 0.2, "cold": 0.25}
    some = answer.evidence[answer.chosen]
    trials.dense = {name: DenseErrors(error, 0.1) for name, error in dense.items()}
    trials.evidence = {name: replace(some, test=(error,) * 2) for name, error in errors.items()}
    cast_trials: Any = trials
    assert advisor._tried(cast_trials, "mid") == {"hotter", "colder"}
    assert advisor._tried(cast_trials, "cold") == {"hotter"}
    trials.evidence["hot"] = replace(some, test=(math.nan,) * 2)  # diverged: it tells nothing
    assert advisor._tried(cast_trials, "mid") == {"colder"}
    trials.task.test = None
    assert advisor._tried(cast_trials, "mid") == set()


def test_without_test_data_a_net_that_knows_its_labels_by_heart_is_not_recommended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labels without any sense: the cold net knows them all, its copies learn none."""
    measure = LiveTrials._measure
    monkeypatch.setattr(
        LiveTrials,
        "_measure",
        lambda self, fleet, dense: replace(measure(self, fleet, dense), held_out=(0.7, 0.7)),
    )
    inputs, labels = pictures()
    labels = labels[torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    states = trained(mlp, (inputs, labels), (1, 400))
    answer = ask(build_net(mlp), (inputs, labels), checkpoints=states, density=0.5)
    assert answer.open
    assert "Cannot tell which to prune: Algorithm 2.1 would choose epoch_400.\n" in str(answer)
    assert "Prune epoch" not in str(answer)
    assert "by heart. Give test data" in str(answer)
    tested = ask(
        build_net(mlp), (inputs, labels), checkpoints=states, test_data=pictures(), density=0.5
    )
    assert "by heart" not in str(tested)


# --- what a user can put right


def broken(value: float) -> nn.Module:
    net = build_net(mlp)
    next(net.parameters()).data[0, 0] = value
    return net


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0}, "density = 0 is not allowed: a fraction in (0, 1]"),
        ({"density": 2}, "density = 2 is not allowed"),
        ({"copies": 1}, "copies = 1 is not allowed: 2 or more"),
        ({"epochs": 0}, "epochs = 0 is not allowed"),
        ({"lr": 0.0}, "retraining.lr = 0.0 is not allowed"),
        ({"weight_decay": -1.0}, "retraining.weight_decay = -1.0 is not allowed"),
        ({"optimizer": "lion"}, "'lion' is not allowed: one of sgd, adam"),
        ({"batch_size": 65}, "batch_size = 65 is not allowed: from 2 to"),
        ({"device": "tpu7"}, "device = 'tpu7' is not available"),
        ({"checkpoints": {}}, "checkpoints = {} is not allowed"),
        ({"max_examples": 1}, "max_examples = 1 is not allowed"),
        ({"size": 0}, "size = 0 is not allowed: from 1 to"),
        ({"size": 10**9}, "size = 1000000000 is not allowed"),
        ({"lr": 1e30}, "diverged in retraining: give a lower lr"),
    ],
)
def test_an_option_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        ask(build_net(mlp), pictures(), **{"epochs": 2, **options})
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_net_that_has_diverged(value: float) -> None:
    with pytest.raises(ThreeRegimeError, match=r"the net has diverged: 1\.weight is not finite"):
        ask(broken(value), pictures())


def test_no_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LiveTrials, fleet: Any, candidate: str, epochs: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LiveTrials, "_train", full)
    with pytest.raises(
        ThreeRegimeError, match="no memory left for 2 copies at batch_size = 6: give"
    ):
        ask(build_net(mlp), pictures())


def test_constant_outputs_are_one_line() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = normed()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * self.net(x) + torch.tensor([1.0, 0, 0, 0])

    with pytest.raises(ThreeRegimeError, match="answer the same whatever the input"):
        ask(build_net(Constant), pictures())


def test_digits_are_learned() -> None:
    """A sanity check of the whole: few steps on real images lower the error."""
    net = build_net(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    )
    answer = ask(net, digits(), epochs=6, lr=1e-2)
    assert max(answer.evidence[advisor.OWN].train) < 0.2 < answer.dense[advisor.OWN].train
