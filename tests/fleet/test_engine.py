"""The engine: what may run a fleet, which is picked, and that all of them train the same nets."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.cases import with_examples
from tests.helpers.small_nets import needs_compiler
from threeregime.data.images import ImageBatches
from threeregime.data.registry import load_images, load_task
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue, experiment
from threeregime.experiments.experiment import Experiment
from threeregime.fleet import cache as user_cache
from threeregime.fleet import cuda_graph, device, engine
from threeregime.fleet.backends import BACKENDS
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import Fleet
from threeregime.kernels import library
from threeregime.models import NETS, net_builder
from threeregime.protocol import Data, Net, Training
from threeregime.pruning.magnitude import magnitude_masks
from threeregime.results import load_results
from threeregime.sweep import jobs, memory, resumable
from threeregime.sweep.plan import JobContext, RetrainJob, fleet_checkpoint, make_plan
from threeregime.training import TrainingRun
from threeregime.training import run as training

SGD = Training(lr=0.05, batch_size=32, epochs=2, milestones=(1,))


class Small(nn.Module):
    """One of each layer, small enough to be compiled in a test."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(x))).mean(dim=(2, 3)))


def make_run(chosen: Engine, members: int = 3) -> training.TrainingRun:
    fleet = Fleet.initial(Small, range(members), **chosen.fleet_options)
    run = training.TrainingRun(
        fleet,
        ImageBatches(load_images("digits"), range(members), 32, crop=1, flip=True),
        SGD,
        chosen,
    )
    run.prune(
        magnitude_masks(
            {"conv.weight": fleet.state()["conv.weight"]}, ["uniform"] * members, [0.5] * members
        )
    )
    return run


# --- names


@pytest.mark.parametrize("chosen", [*engine.GPU_ENGINES, *map(Engine, BACKENDS)])
def test_an_engine_is_found_by_its_name(chosen: Engine) -> None:
    assert Engine.from_name(chosen.name) == chosen


def test_float32_needs_no_naming() -> None:
    assert Engine.from_name("planned") == Engine("planned", "float32")


@pytest.mark.parametrize("name", ["planned bfloat16", "planned compiled", "planned graphed"])
def test_what_a_plan_cannot_do_is_refused(name: str) -> None:
    with pytest.raises(ThreeRegimeError, match=r"engine = .* is not allowed: planned is float32"):
        Engine.from_name(name)


@pytest.mark.parametrize(
    "name", ["", "fast", "grouped planned", "lanes", "grouped float16", "float32"]
)
def test_an_unknown_engine_is_one_line(name: str) -> None:
    with pytest.raises(ThreeRegimeError, match=r"engine = .* is not allowed: one of .*separate"):
        Engine.from_name(name)


# --- the rule on a CPU


def silu_net() -> nn.Module:
    return nn.Sequential(Small(), nn.SiLU())


class Scaled(nn.Module):
    """A net with a layer that has no stacked form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.InstanceNorm2d(4, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x)).mean(dim=(2, 3))


IMAGE = torch.Size([1, 1, 8, 8])


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], list[str]]]:
    """Return a function that returns the lines on stderr; none has been said before."""
    engine._print_once.cache_clear()
    yield lambda: capfd.readouterr().err.splitlines()
    engine._print_once.cache_clear()


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each way to time an engine, or to remember a time, fail."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("an engine is timed")

    for module, name in ((engine, "cached"), (engine, "_time_engines"), (Fleet, "initial")):
        monkeypatch.setattr(module, name, refused)
    monkeypatch.setattr(TrainingRun, "step", refused)


@needs_compiler
@pytest.mark.parametrize("width", [0.1, 0.3, 3 / 8, 1.0])
@pytest.mark.parametrize(
    ("name", "depth"), [("preresnet", 8), ("preresnet", 20), ("densenet", 10), ("vgg", 11)]
)
def test_the_papers_nets_are_planned(
    name: str, depth: int, width: float, untimed: None, lines: Callable[[], list[str]]
) -> None:
    state = torch.get_rng_state()
    chosen = engine.cpu_engine(
        lambda: NETS[name].build(depth, width, 3, 10), torch.Size([1, 3, 8, 8])
    )
    assert chosen == Engine("planned")
    assert lines() == []
    assert torch.equal(torch.get_rng_state(), state)


def test_a_transformer_is_vmapped(untimed: None, lines: Callable[[], list[str]]) -> None:
    task = load_task(Data("number-words", crop=0, flip=False))
    build = net_builder(Net("transformer", depth=1, width=0.125), task)
    state = torch.get_rng_state()
    assert engine.cpu_engine(build, task.dummy_input(1).shape) == Engine("vmapped")
    assert torch.equal(torch.get_rng_state(), state)
    assert len(lines()) <= 1


@needs_compiler
@pytest.mark.parametrize(
    ("build", "backend", "operation"),
    [(silu_net, "grouped", "silu"), (Scaled, "separate", "instance_norm")],
)
def test_a_net_with_another_operation_runs_uncompiled_and_one_line_says_why(
    build: Callable[[], nn.Module],
    backend: str,
    operation: str,
    untimed: None,
    lines: Callable[[], list[str]],
) -> None:
    for _ in range(3):
        assert engine.cpu_engine(build, IMAGE) == Engine(backend)
    (line,) = lines()
    assert line == (
        f"threeregime: {operation} is in no plan: nets run {backend}, several times slower"
    )
    fleet = Fleet(build, {n: t[None] for n, t in build().state_dict().items()}, backend=backend)
    assert fleet.logits(torch.ones(2, 1, 1, 8, 8)).isfinite().all()


@needs_compiler
def test_a_net_without_convolutions_may_be_planned_or_vmapped(
    untimed: None, lines: Callable[[], list[str]]
) -> None:
    def build(last: type[nn.Module]) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), last(), nn.Linear(8, 3))

    inputs = torch.Size([1, 4])
    assert engine.cpu_engine(lambda: build(nn.ReLU), inputs) == Engine("planned")
    assert lines() == []
    assert engine.cpu_engine(lambda: build(nn.Tanh), inputs) == Engine("vmapped")
    assert lines() == []  # it is good at them


@pytest.mark.parametrize("compiler", ["", "false"])
def test_without_a_compiler_nets_are_grouped_and_one_line_says_why(
    compiler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    untimed: None,
    lines: Callable[[], list[str]],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr("shutil.which", lambda name: None)
    library.load_library.cache_clear()
    try:
        for _ in range(3):
            assert engine.cpu_engine(Small, IMAGE) == Engine("grouped")
    finally:
        library.load_library.cache_clear()
    said = [line for line in lines() if "compiling" not in line]
    assert len(said) == 1
    reason = f"{compiler} could not compile planned.cpp" if compiler else "no C++ compiler"
    assert said[0].startswith(f"threeregime: {reason}")
    assert said[0].endswith(": nets run grouped, several times slower")
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
def test_building_a_net_does_not_use_the_global_random_state(untimed: None) -> None:
    def build() -> nn.Module:
        torch.manual_seed(99)
        return Small()

    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    for chosen in (build, silu_net):
        engine.cpu_engine(chosen, IMAGE)
    assert torch.equal(torch.rand(3), expected)


# --- the trial on a GPU


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "GPU_ENGINES", [Engine(), Engine("separate"), Engine("vmapped")])
    monkeypatch.setattr(engine, "device_name", lambda device: "a GPU")
    return tmp_path / "threeregime"


def trial(seconds: dict[str, float | Exception], calls: list[str]) -> Callable[..., float]:
    def timed(chosen: Engine, limit: float) -> float:
        calls.append(chosen.backend)
        found = seconds[chosen.backend]
        if isinstance(found, Exception):
            raise found
        return found

    return timed


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"grouped": 2.0, "separate": 1.0, "vmapped": 3.0}, "separate"),
        ({"grouped": 1.0, "separate": 0.95, "vmapped": 0.92}, "grouped"),  # not clearly faster
        ({"grouped": RuntimeError("no such kernel"), "separate": 2.0, "vmapped": 5.0}, "separate"),
        ({"grouped": 1.0, "separate": torch.OutOfMemoryError(), "vmapped": 0.5}, "vmapped"),
    ],
)
def test_the_clearly_fastest_is_picked_and_kept(
    seconds: dict[str, Any], expected: str, cache: Path
) -> None:
    calls: list[str] = []
    for _ in range(2):
        assert engine.pick_gpu_engine("cuda", 3, "kind", trial(seconds, calls)).backend == expected
    assert calls == ["grouped", "separate", "vmapped"]  # once: the second answer was kept
    assert len(list(cache.iterdir())) == 1
    engine.pick_gpu_engine("cuda", 3, "another kind", trial(seconds, calls))
    assert len(calls) == 6


@pytest.mark.parametrize("obstacle", ["a file", "no links", "no folder", "another was faster"])
def test_what_cannot_be_kept_is_found_out_anew(
    obstacle: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Operation not permitted")

    def beaten(own: Path, path: Path) -> None:
        path.write_text('{"rate": 2}')
        raise FileExistsError

    if obstacle == "a file":
        cache.write_text("in the way")
    elif obstacle == "no folder":
        monkeypatch.setattr(Path, "mkdir", refused)
    else:
        monkeypatch.setattr(user_cache.os, "link", refused if obstacle == "no links" else beaten)
    rate = 2 if obstacle == "another was faster" else 1
    for _ in range(2):
        assert user_cache.cached("speed", "facts", lambda: {"rate": 1}) == {"rate": rate}
    left = [path.suffix for path in cache.iterdir()] if cache.is_dir() else []
    assert left == [".json"] * (rate == 2)


def test_a_damaged_table_is_found_out_anew(cache: Path) -> None:
    assert user_cache.cached("speed", "facts", lambda: {"rate": 1}) == {"rate": 1}
    (path,) = cache.iterdir()
    path.write_text("{")
    assert user_cache.cached("speed", "facts", lambda: {"rate": 3}) == {"rate": 3}


@pytest.mark.parametrize("content", ["[1]", "5", '{"rate": 7}', "{}", "[" * 100_000, "null"])
def test_a_stored_table_of_another_shape_is_replaced(content: str, cache: Path) -> None:
    def rates() -> dict[str, Any]:
        return user_cache.cached("speed", "facts", lambda: {"engine": 1}, lambda t: "engine" in t)

    assert rates() == {"engine": 1}
    (path,) = cache.iterdir()
    path.write_text(content)
    assert rates() == {"engine": 1}
    assert path.read_text() != content


def test_where_nothing_fits_it_is_out_of_memory(cache: Path) -> None:
    full = dict.fromkeys(("grouped", "separate", "vmapped"), torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        engine.pick_gpu_engine("cuda", 3, "kind", trial({**full}, []))
    assert not cache.exists()


def test_where_nothing_runs_the_reasons_are_told(cache: Path) -> None:
    broken = dict.fromkeys(("grouped", "separate", "vmapped"), RuntimeError("broken"))
    with pytest.raises(ThreeRegimeError, match=r"no engine can run this fleet: .*broken"):
        engine.pick_gpu_engine("cuda", 3, "kind", trial({**broken}, []))


# --- the same nets


def trained(chosen: Engine, epochs: int = 1) -> dict[str, torch.Tensor]:
    run = make_run(chosen)
    for _ in range(epochs):
        run.run_epoch()
    return run.state()


@functools.cache
def plainest() -> dict[str, torch.Tensor]:
    return trained(Engine())


@pytest.mark.parametrize("backend", ["grouped", "separate"])
def test_sixteen_bits_stay_near_and_weights_stay_in_32(backend: str) -> None:
    state = trained(Engine(backend, "bfloat16"))
    for name, tensor in state.items():
        exact = plainest()[name]
        assert tensor.dtype == exact.dtype
        if name.startswith("epoch"):
            continue
        off = (tensor - exact).norm() / exact.norm()
        assert 0 < off < 0.1, name  # other numbers, the same nets
    zero = plainest()["conv.weight"] == 0
    assert zero.float().mean() == pytest.approx(0.5, abs=0.05)
    assert torch.equal(state["conv.weight"] == 0, zero)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["grouped", "separate"])
def test_compiled_nets_are_the_same(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated by the compiler; its code for processors is its own business."""
    compile_ = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", compile_)
    state = trained(Engine(backend, compiled=True))
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, plainest()[name], rtol=1e-4, atol=1e-5)


# --- CUDA graphs, with a stand-in for the device


class FakeGraph:
    """What the driver does, in Python: runs what was recorded again, on the recorded tensors."""

    recording: list[Callable[[], None]] | None = None

    def replay(self) -> None:
        assert FakeGraph.recording
        for call in FakeGraph.recording:
            call()


class FakeStream:
    def wait_stream(self, other: FakeStream) -> None:
        pass


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def context(*_: Any, **__: Any) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def record(*_: Any, **__: Any) -> Iterator[None]:
        FakeGraph.recording = []
        yield
        # recording does not compute
        FakeGraph.recording = [lambda: None]

    for name, value in {
        "Stream": FakeStream,
        "current_stream": FakeStream,
        "stream": context,
        "graph": record,
        "CUDAGraph": FakeGraph,
        "synchronize": lambda *_: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)


def test_a_step_is_called_then_recorded_once_then_replayed(
    fake_cuda: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(FakeGraph, "replay", lambda self: calls.append("replay"))
    seen: list[torch.Tensor] = []

    def function(x: torch.Tensor) -> None:
        seen.append(x)
        calls.append("call")

    step = cuda_graph.CudaGraphStep(function, before=lambda: calls.append("before"))
    for number in range(cuda_graph.WARM_UP + 3):
        step(torch.tensor(float(number)))
    warm = ["call"] * cuda_graph.WARM_UP
    assert calls == [*warm, "before", "call", "replay", "replay", "replay"]
    # what is replayed reads the recorded tensor, which holds the newest input
    assert seen[-1].item() == cuda_graph.WARM_UP + 2


def test_going_back_to_a_state_records_anew(fake_cuda: None) -> None:
    run = make_run(Engine(graphed=True))
    first = run.advance
    assert isinstance(first, cuda_graph.CudaGraphStep)
    for step in range(2):
        run.advance(*run.loader.step_draws(run.loader.draw(0), step))
    run.load(run.state())
    assert run.advance is not first


# --- memory


@pytest.fixture
def place(tmp_path: Path) -> JobContext:
    return JobContext(catalogue.load_experiment("figure_02", "clutter"), tmp_path, tmp_path)


def test_fleets_are_as_large_as_memory_allows(
    place: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = place.experiment.protocol
    each = memory.net_bytes(protocol, 32, place)
    monkeypatch.setattr(memory, "free_memory", lambda _: int(10.1 * each / memory.SHARE))
    assert memory.max_members(protocol, place, 1) == 8  # a power of two below 10
    assert memory.max_members(protocol, place, 2) == 4
    assert memory.max_members(protocol, place, 100) == 1


def test_a_net_that_no_memory_holds_is_refused(
    place: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    protocol = place.experiment.protocol
    each = memory.net_bytes(protocol, 32, place)
    monkeypatch.setattr(memory, "free_memory", lambda _: int(0.9 * each))
    with pytest.raises(ThreeRegimeError, match=r"net.width = 0.375 .* take a smaller net or batch"):
        memory.max_members(protocol, place, 1)


def test_memory_grows_with_net_image_and_batch(place: JobContext) -> None:
    protocol = place.experiment.protocol
    wide = protocol.replace("net.width", 2 * protocol.net.width)
    each = memory.net_bytes(protocol, 32, place)
    assert memory.net_bytes(protocol, 64, place) > 1.5 * each
    assert 1.8 * each < memory.net_bytes(wide, 32, place) < 4 * each


def test_the_machine_says_what_is_free() -> None:
    assert 2**20 < device.free_memory("cpu") < 2**45


@pytest.fixture
def tiny() -> Experiment:
    return (
        catalogue.load_experiment("figure_02", "smoke")
        .with_fields({"data.images": 160, "retraining.epochs": 4, "retraining.milestones": [2]})
        .with_values(epochs=[2], density=[0.1, 0.2, 0.4, 0.8])
        .with_seeds(1, 2)
    )


@pytest.fixture
def place_of(tmp_path: Path) -> Callable[[Experiment, str], JobContext]:
    def made(experiment: Experiment, name: str) -> JobContext:
        return JobContext(
            experiment, make_plan(experiment, tmp_path / name).folder, tmp_path, engine="grouped"
        )

    return made


def done(place: JobContext) -> bool:
    root = place.folder.parent.parent
    finished = [jobs.run_job(job, place) for job in make_plan(place.experiment, root).jobs]
    return all(finished)


@pytest.mark.parametrize("at_epoch", with_examples([0, 2, 4], [2, 4]))
def test_a_fleet_that_does_not_fit_goes_on_as_two(
    at_epoch: int,
    tiny: Experiment,
    place_of: Callable[[Experiment, str], JobContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight nets run out of memory in training (at_epoch < 4) or in measuring, four do not."""
    whole, halved = place_of(tiny, "whole"), place_of(tiny, "halved")
    assert done(whole)
    monkeypatch.setattr(resumable, "CHECKPOINT_SECONDS", -1.0)
    epochs: list[tuple[int, int]] = []
    run_epoch, measure = training.TrainingRun.run_epoch, jobs.measure_pairs

    def epoch(run: training.TrainingRun) -> None:
        if run.fleet.members == 8 and run.epoch == at_epoch:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        run_epoch(run)
        epochs.append((run.fleet.members, run.epoch))

    def measured(fleet: Fleet, *rest: Any) -> Any:
        if fleet.members == 8:
            torch.empty(1 << 50)  # more than a CPU can address
        return measure(fleet, *rest)

    monkeypatch.setattr(training.TrainingRun, "run_epoch", epoch)
    monkeypatch.setattr(jobs, "measure_pairs", measured)
    assert done(halved)
    dense = [(1, 1), (1, 2)]
    before = [(8, e) for e in range(1, at_epoch + 1)]
    after = [(4, e) for e in range(at_epoch + 1, 5)]
    assert epochs == dense + before + after + after  # nothing was done twice
    got, expected = (load_results(tiny, p.folder.parent.parent) for p in (halved, whole))
    columns = ["density", "retrain_seed"]
    assert got.nets[columns].equals(expected.nets[columns])
    assert abs(got.nets["test_error"] - expected.nets["test_error"]).max() < 0.02
    assert abs(got.pairs["lmc"] - expected.pairs["lmc"]).max() < 0.03
    assert not list((halved.folder / "state").glob("fleet-*"))


def test_copies_of_one_net_that_do_not_fit_are_one_line(
    tiny: Experiment,
    place_of: Callable[[Experiment, str], JobContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(run: training.TrainingRun) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.\nand more")

    monkeypatch.setattr(training.TrainingRun, "run_epoch", full)
    with pytest.raises(ThreeRegimeError, match=r"^out of memory with the smallest fleet, 1 nets.*"):
        done(place_of(tiny, "full"))


# --- plans


def test_a_begun_fleet_of_another_size_goes_on_as_it_is(tiny: Experiment, tmp_path: Path) -> None:
    at = make_plan(tiny, tmp_path).folder
    (whole,) = make_plan(tiny, tmp_path).retrain
    begun = RetrainJob(whole.units[1:3])
    resumable.write_checkpoint(fleet_checkpoint(at, begun), begun, {"epoch": torch.tensor(1)})
    planned = make_plan(tiny, tmp_path).retrain
    assert planned[0] == begun
    assert [unit.load for unit in planned[1].units] == [whole.units[0].load, whole.units[3].load]
    # and where it is part of the plan, the plan stays as it is
    resumable.write_checkpoint(fleet_checkpoint(at, whole), whole, {"epoch": torch.tensor(1)})
    fleet_checkpoint(at, begun).unlink()
    assert make_plan(tiny, tmp_path).retrain == (whole,)


def test_a_part_of_a_sweep_shows_the_whole_grid() -> None:
    experiment = catalogue.load_experiment("figure_02", "clutter")
    units = experiment.units()
    cells = len(experiment.temperatures) * len(experiment.loads)
    assert {unit.dense_seed for unit in units[:cells]} == {experiment.dense_seeds[0]}
    ends = [(a[0], a[-1]) for a in (experiment.temperatures, experiment.loads)]
    corners = {(t, d) for t in ends[0] for d in ends[1]}
    assert {(unit.temperature, unit.load) for unit in units[:4]} == corners
    coarse = {(unit.temperature, unit.load) for unit in units[:25]}  # 5 x 5 of 16 x 9
    assert len({t for t, _ in coarse}) == len({d for _, d in coarse}) == 5
    assert len(set(units[:cells])) == cells


@pytest.mark.parametrize("count", range(1, 20))
def test_levels_halve_an_axis(count: int) -> None:
    levels = experiment._levels(list(range(count)))
    assert sorted(levels) == list(range(count))
    for level in range(max(levels.values()) + 1):
        kept = sorted(v for v, at in levels.items() if at <= level)
        gaps = [b - a for a, b in itertools.pairwise(kept)]
        assert not gaps or max(gaps) <= -(-(count - 1) // 2**level)
