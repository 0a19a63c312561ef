"""Forecasts: what a net has to do, what timed steps say, and what an experiment then costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from threeregime import catalogue, estimate, forecast, speed
from threeregime.loader import outline, resident
from threeregime.protocol import Data, Net
from threeregime.speed import PASSES, Speed, Work
from threeregime.sweep import plan

NOWHERE = Path("nowhere")
PLAIN = {"images": Speed(0.0, {1.0: 1e9}), "sentences": Speed(0.0, {1.0: 1e9})}
"""A billion operations a second, and nothing else takes any time."""


@pytest.mark.parametrize(
    "wanted",
    [
        Data("digits"),
        Data("digits", images=160, size=4),
        Data("digits-pairs"),
        Data("digits-clutter"),
        Data("number-words", crop=0, flip=False),
        Data("number-words", crop=0, flip=False, images=320),
    ],
    ids=str,
)
def test_an_outline_has_the_sizes_of_the_data(wanted: Data) -> None:
    sketch, real = outline(wanted), resident(wanted, NOWHERE, False, "cpu")
    assert (sketch.of, sketch.name, sketch.count) == (real.of, wanted.name, real.count)
    assert sketch.sides == real.sides
    assert sketch.blank(3).shape == real.blank(3).shape


def test_operations_are_those_of_the_literature() -> None:
    """ResNet-20 has 40.8 million multiply-adds (41 M in He et al., 2016), VGG-19 398 million."""
    resnet = speed.work(Net("preresnet", 20), Data("cifar10"))
    assert resnet.operations == pytest.approx(2 * 40.8e6, rel=0.01)
    assert resnet.layers == 21 + 19 + 1  # with 2 shortcuts: convolutions, norms, linear
    vgg = speed.work(Net("vgg", 19), Data("cifar10"))
    assert vgg.operations == pytest.approx(2 * 398e6, rel=0.01)


def test_a_step_by_hand() -> None:
    known = Speed(0.5, {10.0: 100.0, 1000.0: 10_000.0})
    by_hand = 0.5 + 5 * 2 * PASSES * 10 / 100
    assert known.step(Work(10, 1), batch=2, members=5) == pytest.approx(by_hand)
    # as large as their geometric mean: halfway between on a logarithmic scale
    assert known.step(Work(200, 2), 1, 1) == pytest.approx(1.0 + PASSES * 200 / 1000)
    assert known.step(Work(1, 1), 1, 1) == pytest.approx(0.5 + PASSES / 100)


@pytest.mark.parametrize("kind", ["images", "sentences"])
def test_what_timed_steps_say(kind: str) -> None:
    """Made from known speeds, they lead back to them."""
    chosen = speed.trials("cpu")[kind]
    works = [speed.work(trial.protocol.net, trial.protocol.data) for trial in chosen]
    rates = {work.per_layer: 1e10 * number for number, work in enumerate(works[1:], start=1)}
    known = Speed(4e-4, rates)
    times = [
        known.step(work, trial.batch, trial.members)
        for work, trial in zip(works, chosen, strict=True)
    ]
    found = speed.speed(chosen, times)
    assert found.layer == pytest.approx(known.layer, rel=0.01)
    for size, rate in known.rates.items():
        assert found.rates[size] == pytest.approx(rate, rel=0.01)


def test_steps_are_timed() -> None:
    trial = speed.trials("cpu")["images"][0]
    assert 1e-4 < trial.seconds("cpu") < 5


@pytest.mark.parametrize("name", ["figure_02", "figure_07", "diagnostics", "weight_decay"])
def test_an_experiment_costs_what_its_plan_says(name: str) -> None:
    experiment = catalogue.experiment(name, "smoke")
    planned = plan(experiment, NOWHERE)
    expected = 0.0
    for job in planned.jobs:
        training = job.protocol.dense if job in planned.dense else job.protocol.retraining
        steps = training.steps(797 // training.batch_size) / training.epochs
        amount = speed.work(job.protocol.net, job.protocol.data).operations
        expected += job.cost * steps * training.batch_size * PASSES * amount / 1e9
    for workers in (1, 100):
        fleets = min(workers, len(planned.retrain))
        found = forecast.seconds(experiment, PLAIN, workers)
        assert found == pytest.approx(forecast.BESIDE * expected / fleets)


def test_sharpness_aware_dense_runs_take_twice_as_long() -> None:
    sharp = catalogue.experiment("figure_06", "smoke").only(rho=[0.1])
    plain = catalogue.experiment("figure_06", "smoke").only(rho=[0.0])
    cost = forecast.seconds(plain, PLAIN, 1)
    (dense,) = plan(plain, NOWHERE).dense
    share = dense.cost / plan(plain, NOWHERE).cost
    assert forecast.seconds(sharp, PLAIN, 1) == pytest.approx(cost * (1 + share))


def test_a_machine_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(catalogue, "names", lambda: ["figure_02"])
    monkeypatch.setattr(catalogue, "scales", lambda name: ["smoke", "digits"])
    calls: list[str] = []

    def timed(device: str) -> dict[str, Speed]:
        calls.append(device)
        return PLAIN

    monkeypatch.setattr(forecast, "speeds", timed)
    first, second = (forecast.everything("cpu", 2) for _ in range(2))
    assert first == second
    assert calls == ["cpu"]
    assert list(first) == ["figure_02"]
    assert 0 < first["figure_02"]["smoke"] < first["figure_02"]["digits"]
    forecast.everything("cpu", 1)
    assert len(calls) == 2


def test_durations_in_words() -> None:
    hour = 3600.0
    spans = [0.2, 59, 240, 2.5 * hour, 47 * hour, 72 * hour, 365 * 24 * hour, 3650 * 24 * hour]
    assert [estimate.duration(span) for span in spans] == [
        *("1 s", "59 s", "4 min", "2.5 h", "47.0 h", "3 days", "365 days", "10 years")
    ]
