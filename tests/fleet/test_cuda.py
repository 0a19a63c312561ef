"""On a GPU: every engine trains the nets of a CPU, steps are replayed, measurements agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.helpers.comparing import assert_resumes_exactly
from threeregime.data.registry import load_task
from threeregime.fleet import Engine, Fleet, State, compute_settings, pick_gpu_engine
from threeregime.fleet.cuda_graph import CudaGraphStep
from threeregime.metrics import PairMetrics, measure_pairs
from threeregime.models import net_builder
from threeregime.protocol import Data, Net, Training
from threeregime.pruning import prune_masks
from threeregime.training import TrainingRun, evaluate_errors

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
    pytest.mark.filterwarnings("ignore"),  # those of the compiler, at its import
]

MEMBERS = 3
DENSITY = 0.5
NET = Net(depth=8, width=0.25)
SGD = Training(lr=0.05, batch_size=64, epochs=2, milestones=(1,))
IMAGES = Data("digits", images=500, crop=1)
PLAIN = Engine()
EXACT = [
    Engine(backend, "float32", compiled, graphed=True)
    for backend in ("grouped", "separate")
    for compiled in (False, True)
]


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """Products of 32 bits stay products of 32 bits."""
    with compute_settings("cuda"):
        yield


def make_run(device: str, engine: Engine = PLAIN) -> TrainingRun:
    task = load_task(IMAGES).to(device)
    build = net_builder(NET, task)
    fleet = Fleet.initial(build, range(MEMBERS), device, **engine.fleet_options)
    run = TrainingRun(fleet, task.loader(range(MEMBERS), SGD.batch_size), SGD, engine)
    run.prune(prune_masks(fleet, [DENSITY] * MEMBERS, ["uniform"] * MEMBERS, [None] * MEMBERS))
    return run


def trained(device: str, engine: Engine = PLAIN) -> State:
    run = make_run(device, engine)
    run.run_epoch()
    if engine.graphed:
        assert isinstance(run.advance, CudaGraphStep)
        assert run.advance.graph is not None
    return run.fleet.state()


@pytest.mark.parametrize("engine", EXACT, ids=lambda engine: engine.name)
def test_an_engine_trains_the_nets_of_a_cpu(engine: Engine) -> None:
    expected, found = trained("cpu"), trained("cuda", engine)
    for name, tensor in expected.items():
        off = (found[name].cpu() - tensor).norm() / tensor.norm()
        assert off < 1e-3, name


@pytest.mark.parametrize("backend", ["grouped", "separate"])
def test_sixteen_bits_stay_near(backend: str) -> None:
    expected = trained("cpu")
    found = trained("cuda", Engine(backend, "bfloat16", graphed=True))
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        off = (found[name].cpu() - tensor).norm() / tensor.norm()
        assert 0 < off < 0.2, name
        assert torch.equal(found[name].cpu() == 0, tensor == 0) or "weight" not in name


def test_a_replayed_step_follows_rate_and_masks() -> None:
    run = make_run("cuda", Engine(graphed=True))
    outside = {id(weight): mask for weight, mask in run.masked}
    run.run_epoch()
    before = [p.detach().clone() for p in run.parameters.values()]
    run.recipe = replace(SGD, lr=1e-6)
    run.run_epoch()
    after = list(run.parameters.values())
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other.detach(), one, rtol=0, atol=1e-4)
        if id(other) in outside:
            assert not other.detach()[outside[id(other)]].any()


def test_resumes_as_if_not_stopped() -> None:
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        assert_resumes_exactly(lambda: make_run("cuda", Engine(graphed=True)))


def test_measurements_are_those_of_a_cpu() -> None:
    def measured(device: str) -> tuple[torch.Tensor, PairMetrics]:
        task = load_task(IMAGES).to(device)
        fleet = Fleet(net_builder(NET, task), {n: t.to(device) for n, t in state.items()}, device)
        errors = evaluate_errors(fleet, task, train=False)
        return errors.cpu(), measure_pairs(fleet, [(0, 1), (1, 2)], task, samples=256)

    state = trained("cpu")
    (errors, pairs), (expected_errors, expected) = measured("cuda"), measured("cpu")
    torch.testing.assert_close(errors, expected_errors, atol=0.01, rtol=0)
    torch.testing.assert_close(pairs.curve, expected.curve, atol=0.01, rtol=0)
    torch.testing.assert_close(pairs.cka_softmax, expected.cka_softmax, atol=1e-3, rtol=0)


def test_a_trial_picks_an_engine() -> None:
    def seconds(engine: Engine, limit: float) -> float:
        calls.append(engine.name)
        return 1.0 / len(calls)

    calls: list[str] = []
    assert pick_gpu_engine("cuda", MEMBERS, f"trial {id(calls)}", seconds).name in calls
