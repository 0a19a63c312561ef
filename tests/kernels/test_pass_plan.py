"""The pass of a plan: plain nets' numbers in float64, and one net's bits whatever else runs."""

from __future__ import annotations

import copy
import ctypes
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.cases import with_examples
from tests.helpers.small_nets import (
    RECIPES,
    Drawn,
    Recipe,
    Written,
    assert_near,
    draw_factors,
    draw_images,
    draw_masks,
    make_fleet,
    needs_compiler,
    pass_once,
    pixels,
    plain_net,
    plain_pass,
    set_masks,
)
from threeregime.data.images import Dataset, ImageBatches
from threeregime.fleet import Fleet
from threeregime.kernels import find_compiler, pass_plan
from threeregime.kernels.library import compile_library
from threeregime.metrics import interpolate, line_errors, reestimate_batch_norm
from threeregime.models import NETS
from threeregime.protocol import Dense
from threeregime.training import TrainingRun, evaluate_errors, evaluate_outputs

pytestmark = needs_compiler

SLOW_DATA = [HealthCheck.too_slow, HealthCheck.data_too_large]
MEMBERS = [1, 3, 8, 9, 17]
BATCHES = [1, 2, 5, 13, 33]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, whatever number a test sets."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- plain nets


def assert_plain(fleet: Fleet, images: Tensor, masks: dict[str, Tensor], about: object) -> None:
    """Assert that outputs, gradients of what is kept and statistics are those of plain nets."""
    nets = [plain_net(fleet, member) for member in range(fleet.members)]
    found = pass_once(fleet, images)
    factors = draw_factors(found["outputs"])
    for member, net in enumerate(nets):
        for name, want in plain_pass(net, images[:, member], factors[member]).items():
            mask = masks.get(name.removeprefix("grad ")) if name.startswith("grad ") else None
            kept = torch.ones(()) if mask is None else mask[member]
            assert_near(found[name][member] * kept, want * kept, (about, name, member))


@settings(max_examples=70, derandomize=True, suppress_health_check=SLOW_DATA)
@given(
    RECIPES,
    st.sampled_from(MEMBERS),
    st.sampled_from(BATCHES),
    st.sampled_from([None, 0.05, 0.3, 0.6, 0.9]),
)
def test_drawn_nets_are_their_plain_nets(
    recipe: Recipe, members: int, batch: int, density: float | None
) -> None:
    """Outputs, gradients and statistics in training, and outputs in evaluation."""
    if Drawn(recipe).fewest * batch == 1:
        batch = 2  # batch norm needs two values
    fleet = make_fleet(lambda: Drawn(recipe), members)
    masks = draw_masks(fleet, density) if density else {}
    set_masks(fleet, masks)
    images = draw_images(fleet, batch, recipe.shape)
    assert_plain(fleet, images, masks, recipe)
    with torch.no_grad(), fleet.mode(training=False):
        outputs = fleet.logits(images)
        for member in range(members):
            want = plain_net(fleet, member).eval()(images[:, member].clone())
            assert_near(outputs[member], want, recipe)


KERNELS = [(1, 0), (1, 1), (3, 0), (3, 1), (3, 2), (5, 0), (5, 2), (5, 1)]  # side, padding
SIDES = [(1, 1), (2, 2), (3, 1), (4, 4), (5, 9), (8, 8), (7, 5), (9, 8)]
CHANNELS = [(1, 6), (4, 8), (5, 3), (7, 4), (9, 2), (2, 7), (3, 9), (8, 5)]  # in, out


@pytest.mark.parametrize("density", [None, 0.2])
@pytest.mark.parametrize("stride", with_examples([1, 2, 3], [2]))
def test_every_convolution_is_that_of_each_net(stride: int, density: float | None) -> None:
    """Each side, padding and image; what follows makes the gradient differ from pixel to pixel."""
    cases = 0
    for number, ((k, p), sides) in enumerate(itertools.product(KERNELS, SIDES)):
        after = pixels(*sides, k, stride, p)
        if min(after) < 1:
            continue
        before, channels = CHANNELS[number % 8]
        bias = number % 3 == 0

        def build(
            k: int = k, p: int = p, before: int = before, channels: int = channels, b: bool = bias
        ) -> nn.Module:
            return Written(
                lambda net, x: net.end(F.relu(net.norm(net.conv(net.first(x))))).mean(dim=(2, 3)),
                first=nn.Conv2d(2, before, 1),
                conv=nn.Conv2d(before, channels, k, stride, p, bias=b),
                norm=nn.BatchNorm2d(channels, eps=0.1),
                end=nn.Conv2d(channels, 3, 1, bias=False),
            )

        fleet = make_fleet(build, MEMBERS[number % 5])
        masks = draw_masks(fleet, density, number) if density else {}
        set_masks(fleet, masks)
        images = draw_images(fleet, [3, 5, 13, 18, 33][number // 2 % 5], (2, *sides))
        assert_plain(fleet, images, masks, (k, p, stride, sides, before, channels))
        cases += 1
    assert cases > 35


NETS_OF_TESTS = [
    ("preresnet", 8, 0.3),
    ("preresnet", 14, 3 / 8),
    ("densenet", 7, 0.3),
    ("densenet", 10, 3 / 8),
    ("vgg", 11, 0.03),
    ("vgg", 13, 0.05),
]
SGD = Dense(lr=0.05, momentum=0.9, weight_decay=1e-3, batch_size=13, epochs=2, milestones=(1,))
RECIPES_OF_TESTS = {
    "momentum": SGD,
    "no momentum": replace(SGD, momentum=0.0),
    "no decay": replace(SGD, weight_decay=0.0),
    "neither": replace(SGD, momentum=0.0, weight_decay=0.0),
    "adam": replace(SGD, optimizer="adam", lr=1e-3),
    "sam": replace(SGD, rho=0.2),
}


def noise(sides: tuple[int, int] = (8, 8), count: int = 52) -> Dataset:
    """Return images of noise in two channels."""
    generator = torch.Generator().manual_seed(0)
    images = (256 * torch.rand((count, 2, *sides), generator=generator)).to(torch.uint8)
    labels = torch.arange(count) % 10
    mean, std = (0.5, 0.4), (0.3, 0.2)
    return Dataset("noise", images, labels, images, labels, mean, std, classes=10)


def build_net(name: str, depth: int, width: float) -> Callable[[], nn.Module]:
    return lambda: NETS[name].build(depth, width, 2, 10)


def make_run(
    fleet: Fleet, recipe: Dense, seeds: list[int], density: float | None = None
) -> TrainingRun:
    run = TrainingRun(fleet, ImageBatches(noise(), seeds, recipe.batch_size, 1, True), recipe)
    if density:
        run.prune({name: mask.float() for name, mask in draw_masks(fleet, density).items()})
    return run


def make_steps(run: TrainingRun, count: int) -> dict[str, Tensor]:
    run.fleet.module.train()
    draws = run.loader.draw(0)
    for step in range(count):
        run.step(*run.loader.step_draws(draws, step))
    return run.state()


def plain_gradients(net: nn.Module, images: Tensor, labels: Tensor, rho: float) -> None:
    """Compute gradients by autograd, for SAM at the top of a climb of length rho."""
    net.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    if not rho:
        return
    start = copy.deepcopy(net.state_dict())
    gradients = [p.grad for p in net.parameters() if p.grad is not None]
    length = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    with torch.no_grad():
        for parameter in net.parameters():
            assert parameter.grad is not None
            parameter.add_(parameter.grad, alpha=(rho / length).item())
    net.zero_grad()
    F.cross_entropy(net(images), labels).backward()
    net.load_state_dict(start)


# With masks, the climb of SAM is a matter of definition: see the companions below.
KINDS = [*itertools.product(RECIPES_OF_TESTS, [None, 0.2])]
KINDS.remove(("sam", 0.2))


@pytest.mark.parametrize(("kind", "density"), KINDS, ids=str)
@pytest.mark.parametrize("net", NETS_OF_TESTS, ids=str)
def test_training_is_that_of_torch_optim(
    net: tuple[str, int, float], kind: str, density: float | None
) -> None:
    recipe = RECIPES_OF_TESTS[kind]
    fleet = Fleet.initial(build_net(*net), [1, 2], dtype=torch.float64, backend="planned")
    run = make_run(fleet, recipe, [3, 4], density)
    masks = draw_masks(fleet, density) if density else {}
    nets = [plain_net(fleet, member) for member in range(2)]
    drawn = run.loader.draw(0)
    batches = [run.loader.batch(run.loader.step_draws(drawn, s), torch.float64) for s in range(3)]
    state = make_steps(run, 3)
    for member, plain in enumerate(nets):
        named = dict(plain.named_parameters())
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            named.values(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay
        )
        if kind == "adam":
            optimizer = torch.optim.Adam(
                named.values(), recipe.lr, weight_decay=recipe.weight_decay
            )
        for images, labels in batches:
            # The climb of SAM moves masked weights too.
            plain_gradients(plain, images[:, member], labels[member], recipe.rho)
            for name, mask in masks.items():
                gradient = named[name].grad
                assert gradient is not None
                gradient *= mask[member]
            optimizer.step()
        for name, tensor in plain.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                assert_near(state[name][member], tensor, (name, member))
        for name, parameter in named.items():
            for key, value in optimizer.state[parameter].items():
                if isinstance(value, Tensor) and value.dim():
                    have = state[f"optimizer/{key}/{name}"][member]
                    assert_near(have, value, (key, name, member))


# --- bits


def three_convolutions(k: int = 3, s: int = 1) -> Callable[[], nn.Module]:
    """Return a function that builds a net of three convolutions; the second is of side k."""
    return lambda: Written(
        lambda net, x: net.linear(
            F.relu(
                net.norm2(net.conv2(F.relu(net.norm1(net.conv1(x)))) + net.short(net.conv1_b(x)))
            ).mean(dim=(2, 3))
        ),
        conv1=nn.Conv2d(2, 6, 3, padding=1, bias=False),
        conv1_b=nn.Conv2d(2, 5, 1),
        norm1=nn.BatchNorm2d(6),
        conv2=nn.Conv2d(6, 7, k, s, k // 2, bias=False),
        short=nn.Conv2d(5, 7, 1, s),
        norm2=nn.BatchNorm2d(7),
        linear=nn.Linear(7, 3),
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_live_weights_change_no_bit(k: int, s: int, dtype: torch.dtype) -> None:
    """Skipping weights that are zero changes no bit, whichever kernel a density gets."""
    shares = set()
    members = 20 if dtype == torch.float32 else 11  # a whole slice, and less than half of one
    sides = itertools.cycle([(8, 8), (4, 4), (7, 5), (2, 2), (9, 16)])
    for density, side in zip((0.01, 0.05, 0.2, 0.5, 0.9), sides, strict=False):
        fleets = [make_fleet(three_convolutions(k, s), members, dtype) for _ in range(2)]
        masks = draw_masks(fleets[0], density)
        shares.add(masks["conv2.weight"][:16].any(dim=0).float().mean().item() < 0.6)
        assert not torch.equal(masks["conv1.weight"][0], masks["conv1.weight"][1])
        results = []
        for fleet, live in zip(fleets, (False, True), strict=True):
            set_masks(fleet, masks, live)
            result = pass_once(fleet, draw_images(fleet, 19, (2, *side)))
            with torch.no_grad(), fleet.mode(training=False):
                result["evaluation"] = fleet.logits(draw_images(fleet, 37, (2, *side), seed=1))
            results.append(result)
        for name, want in results[0].items():
            mask = masks.get(name.removeprefix("grad "), torch.ones((), dtype=torch.bool))
            assert torch.equal(results[1][name] * mask, want * mask), (name, density)
    assert shares == {True, False}


@settings(max_examples=30, derandomize=True, suppress_health_check=SLOW_DATA)
@given(
    RECIPES,
    st.sampled_from(BATCHES[1:]),
    st.sampled_from([0.02, 0.1, 0.4, 0.7]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_live_weights_of_drawn_nets_change_no_bit(
    recipe: Recipe, batch: int, density: float, dtype: torch.dtype
) -> None:
    masks: dict[str, Tensor] = {}
    results = []
    for live in (False, True):
        fleet = make_fleet(lambda: Drawn(recipe), 20, dtype)
        masks = draw_masks(fleet, density)
        set_masks(fleet, masks, live)
        results.append(pass_once(fleet, draw_images(fleet, batch, recipe.shape)))
    for name, want in results[0].items():
        mask = masks.get(name.removeprefix("grad "), torch.ones((), dtype=torch.bool))
        assert torch.equal(results[1][name] * mask, want * mask), name


@settings(max_examples=30, derandomize=True, suppress_health_check=SLOW_DATA)
@given(
    RECIPES,
    st.sampled_from(BATCHES[1:]),
    st.sampled_from([None, 0.3]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_no_member_of_a_drawn_net_depends_on_its_companions(
    recipe: Recipe, batch: int, density: float | None, dtype: torch.dtype
) -> None:
    """Outputs, gradients of what is kept and statistics, with no loss of PyTorch's between."""
    whole = make_fleet(lambda: Drawn(recipe), 20, dtype)
    images, masks = draw_images(whole, batch, recipe.shape), draw_masks(whole, density or 1.0)
    state = whole.state()
    results = {}
    for group in ([*range(20)], [3], [18, 2, 11], [*range(4, 13)]):
        fleet = whole.with_state({name: tensor[group] for name, tensor in state.items()})
        if density:
            set_masks(fleet, {name: mask[group] for name, mask in masks.items()})
        outputs = fleet.logits(images[:, group])
        factors = draw_factors(outputs[:1]).expand_as(outputs)
        outputs.backward(factors)
        results[tuple(group)] = {"outputs": outputs.detach(), **fleet.state()}
        for name, parameter in fleet.module.named_parameters():
            assert parameter.grad is not None
            gradient = fleet.by_member(parameter.grad)
            kept = masks[name][group] if density and name in masks else 1
            results[tuple(group)][f"grad {name}"] = gradient * kept
    expected = results[tuple(range(20))]
    for members, result in results.items():
        for name, tensor in result.items():
            assert torch.equal(tensor, expected[name][list(members)]), (name, members)


def trained(
    members: list[int], density: float | None, recipe: Dense = SGD, width: float = 0.3
) -> dict[str, Tensor]:
    """Return float32 members of a fleet of 20 after some steps, trained in this company."""
    build = build_net("preresnet", 8, width)
    everybody = Fleet.initial(build, range(20), backend="planned")
    run = make_run(everybody.select(members), recipe, [100 + member for member in members])
    if density:
        masks = draw_masks(everybody, density)
        run.prune({name: mask[members].float() for name, mask in masks.items()})
    state = make_steps(run, 3)
    with torch.no_grad(), run.fleet.mode(training=False):
        images = torch.randn((35, 2, 8, 8), generator=torch.Generator().manual_seed(0))
        state["outputs"] = run.fleet.logits(run.fleet.broadcast(images))
    return state


@pytest.mark.parametrize("density", [None, 0.2])
def test_no_member_depends_on_its_companions(density: float | None) -> None:
    """Slices are 16 members and 4, in registers of half the width; 9 and 8; 1; or in any order."""
    whole = trained(list(range(20)), density)
    groups = [[0], [7], [17], [19], list(range(5, 14)), list(range(12, 20)), [18, 2, 11], [3] * 17]
    for group in groups:
        state = trained(group, density)
        for name in set(whole) - {"epoch"}:
            assert torch.equal(state[name], whole[name][group]), (name, group)


@pytest.mark.parametrize(
    ("kind", "density"), [("neither", 0.2), ("adam", 0.2), ("sam", None), ("sam", 0.2)], ids=str
)
def test_no_optimizer_makes_members_depend_on_companions(kind: str, density: float | None) -> None:
    """Adam and SAM are PyTorch's, whose sums over a member's tensors depend on how they lie."""
    group = [2, 18]
    whole, some = (
        trained(members, density, RECIPES_OF_TESTS[kind]) for members in ([*range(20)], group)
    )
    for name in set(whole) - {"epoch"}:
        if not whole[name].dim():  # the number of steps of Adam
            continue
        if kind == "neither":
            assert torch.equal(some[name], whole[name][group]), name
        else:
            torch.testing.assert_close(some[name], whole[name][group], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["momentum", "sam"])
def test_no_number_of_threads_changes_a_bit(kind: str) -> None:
    def compute(threads: int) -> dict[str, Tensor]:
        torch.set_num_threads(threads)
        return trained([*range(20), *range(15)], 0.2, RECIPES_OF_TESTS[kind])

    one = compute(1)
    for threads in (2, 3):
        state = compute(threads)
        assert all(torch.equal(state[name], tensor) for name, tensor in one.items())


@pytest.mark.exhaustive
def test_no_width_of_registers_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = find_compiler()
    assert compiler
    usual = pass_plan.load_library()
    narrow = ctypes.CDLL(str(compile_library(compiler, "-DBYTES=32")))
    assert narrow.plan_bytes() == 32
    for density in (None, 0.2):
        states = []
        for library in (usual, narrow):
            monkeypatch.setattr(pass_plan, "load_library", lambda library=library: library)
            states.append(trained(list(range(20)), density, width=3 / 8))
        assert all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())


# --- nets that diverge


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
@pytest.mark.parametrize("kind", ["momentum", "neither", "adam"])
def test_a_diverged_member_keeps_its_zeros_and_the_others_bits(kind: str, value: float) -> None:
    def compute(ill: bool) -> tuple[Fleet, dict[str, Tensor], dict[str, Tensor]]:
        fleet = Fleet.initial(build_net("preresnet", 8, 0.3), range(20), backend="planned")
        run = make_run(fleet, RECIPES_OF_TESTS[kind], list(range(20)), 0.3)
        state = fleet.state()
        if ill:
            for member in (3, 17):
                state["conv.weight"][member][state["conv.weight"][member] != 0] = value
        fleet.load(state)
        return fleet, make_steps(run, 3), draw_masks(fleet, 0.3)

    _, healthy, _ = compute(ill=False)
    fleet, state, masks = compute(ill=True)
    ill = [3, 17]
    others = [member for member in range(20) if member not in ill]
    assert fleet.finite_members().tolist() == [member not in ill for member in range(20)]
    for name in [name for name in healthy if healthy[name].dim()]:
        assert torch.equal(state[name][others], healthy[name][others]), name
    assert any(not state[name][ill].isfinite().all() for name in masks)
    for name, mask in masks.items():
        assert (state[name][~mask] == 0).all(), name
        for key in {"momentum": ["momentum_buffer"], "adam": ["exp_avg", "exp_avg_sq"]}.get(
            kind, ()
        ):
            assert (state[f"optimizer/{key}/{name}"][~mask] == 0).all(), (key, name)


@pytest.mark.parametrize(
    "run",
    [
        lambda norm, x: F.relu(norm(x)).flatten(1),
        lambda norm, x: F.relu(F.avg_pool2d(norm(x), 1)).flatten(1),
        lambda norm, x: F.max_pool2d(norm(x), 1).flatten(1),
        lambda norm, x: norm(x).mean(dim=(2, 3)),
    ],
    ids=["norm and relu", "average and relu", "max", "mean"],
)
def test_nan_and_infinity_are_kept(run: Callable[[Any, Tensor], Tensor]) -> None:
    def build() -> nn.Module:
        return Written(lambda net, x: run(net.norm, x), norm=nn.BatchNorm2d(1))

    fleet = make_fleet(build, 3, torch.float32)
    values = [torch.nan, torch.inf, -torch.inf, 1.0, -1.0]
    images = torch.tensor(values).view(-1, 1, 1, 1, 1).expand(-1, 3, 1, 1, 1)
    with torch.no_grad(), fleet.mode(training=False):
        outputs = fleet.logits(images)
        for member in range(3):
            want = plain_net(fleet, member).eval()(images[:, member].clone())
            torch.testing.assert_close(outputs[member], want, equal_nan=True)


def test_the_largest_pixel_is_nan_wherever_it_is() -> None:
    def build() -> nn.Module:
        return Written(
            lambda net, x: net.conv(F.max_pool2d(x, 2)).flatten(1), conv=nn.Conv2d(1, 1, 1)
        )

    fleet = make_fleet(build, 2)
    for place in range(4):
        images = torch.arange(4.0, dtype=torch.float64).repeat(2, 2, 1)
        images[0, 1, place] = torch.nan
        outputs = pass_once(fleet, images.view(2, 2, 1, 2, 2))["outputs"]
        assert outputs.isnan().flatten(1).tolist() == [[False, False], [True, False]]


# --- evaluation


@pytest.mark.parametrize("net", NETS_OF_TESTS[::2], ids=str)
def test_evaluation_and_interpolation_are_those_of_grouped(net: tuple[str, int, float]) -> None:
    data = noise(count=77)
    found = []
    for backend in ("grouped", "planned"):
        fleet = Fleet.initial(build_net(*net), range(4), dtype=torch.float64, backend=backend)
        a, b = fleet.state(), fleet.select([1, 2, 3, 0]).state()
        fleet.load(interpolate(a, b, 0.3))
        before = evaluate_outputs(fleet, data, 77)
        reestimate_batch_norm(fleet, data)
        found.append(
            {
                **fleet.state(),
                "before": before,
                "outputs": evaluate_outputs(fleet, data, 77),
                "errors": evaluate_errors(fleet, data, train=True),
                "curve": line_errors(fleet, a, b, data, 3),
            }
        )
    for name, want in found[0].items():
        assert_near(found[1][name], want, name)
    assert not torch.allclose(found[0]["before"], found[0]["outputs"])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_images_are_evaluated_as_few(threads: int) -> None:
    torch.set_num_threads(threads)
    fleet = make_fleet(build_net("densenet", 7, 0.3), 20, torch.float32)
    images = draw_images(fleet, 101, (2, 8, 8))
    with torch.no_grad(), fleet.mode(training=False):
        together = fleet.logits(images)
        for count in (1, 7, 32, 50):
            parts = [fleet.logits(part) for part in images.split(count)]
            assert torch.equal(torch.cat(parts, dim=1), together), count
    assert together.shape == (20, 101, 10)


def test_evaluation_changes_no_statistics() -> None:
    fleet = make_fleet(build_net("preresnet", 8, 0.3), 3)
    before = fleet.state()
    with torch.no_grad(), fleet.mode(training=False):
        fleet.logits(draw_images(fleet, 33, (2, 8, 8)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in fleet.state().items())


def test_one_batch_for_all_members_is_not_copied_wrong() -> None:
    """A broadcast batch has a stride of zero; images may lie in memory in any order."""
    fleet = make_fleet(build_net("preresnet", 8, 0.3), 18, torch.float32)
    images = draw_images(fleet, 5, (2, 6, 8))
    layouts = [
        images,
        images.movedim(1, -1).contiguous().movedim(-1, 1),
        images.permute(4, 0, 3, 1, 2).contiguous().permute(1, 3, 4, 2, 0),
    ]
    with torch.no_grad(), fleet.mode(training=False):
        first, *others = (fleet.logits(layout) for layout in layouts)
        assert all(torch.equal(first, other) for other in others)
        one = fleet.logits(fleet.broadcast(images[:, 3]))
        assert torch.equal(one[3], first[3])
        assert torch.equal(one, fleet.logits(fleet.broadcast(images[:, 3]).contiguous()))


# --- calls in a wrong order, or of wrong inputs


def test_two_passes_before_a_backward_pass_are_refused() -> None:
    fleet = make_fleet(build_net("preresnet", 8, 0.3), 3)
    first, second = (fleet.logits(draw_images(fleet, 5, (2, 8, 8), seed)) for seed in (0, 1))
    with pytest.raises(RuntimeError, match="another pass has overwritten"):
        first.sum().backward()
    second.sum().backward()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("between", ["evaluation", "statistics", "a step"])
def test_what_runs_before_a_backward_pass_changes_no_gradient(between: str, threads: int) -> None:
    """It may also be refused, as a second pass in training is."""
    torch.set_num_threads(threads)
    gradients = []
    for interrupted in (False, True):
        fleet = make_fleet(build_net("preresnet", 8, 0.3), 20)
        images = draw_images(fleet, 5, (2, 8, 8))
        outputs = fleet.logits(images)
        if interrupted and between == "a step":
            assert fleet.planned
            plan = fleet.planned.plan(images.shape[2:], images.dtype)
            plan.descend(images + 1, lambda logits, part: logits, pass_plan.Sgd(0.0, 0.0, 0.0), ())
        elif interrupted:
            with torch.no_grad(), fleet.mode(training=between == "statistics"):
                fleet.logits(draw_images(fleet, 7, (2, 8, 8), seed=1))
        refusal = ""
        try:
            outputs.square().sum().backward()
        except RuntimeError as error:
            refusal = str(error)
        if refusal:
            assert interrupted
            assert "another pass has overwritten" in refusal
            return
        gradients.append([p.grad for p in fleet.module.parameters()])
    for first, second in zip(*gradients, strict=True):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


def test_a_plan_is_made_for_each_shape() -> None:
    fleet = make_fleet(build_net("preresnet", 8, 0.3), 3)
    masks = draw_masks(fleet, 0.2)
    for number, sides in enumerate([(8, 8), (6, 10), (8, 8)]):
        assert_plain(fleet, draw_images(fleet, 3, (2, *sides)), masks if number else {}, sides)
        if not number:
            set_masks(fleet, masks)  # holds for plans that exist, and for new ones
    assert fleet.planned
    assert len(fleet.planned.plans) == 2


def test_images_of_another_precision_are_refused() -> None:
    """Read as of the nets' precision, they would be other numbers, or lie outside of memory."""
    fleet = make_fleet(lambda: nn.Linear(4, 3), 2, torch.float32)
    with pytest.raises(RuntimeError):
        fleet.logits(torch.ones(5, 2, 4, dtype=torch.float64))


def test_images_of_another_number_of_members_are_refused() -> None:
    fleet = make_fleet(lambda: nn.Linear(4, 3), 2, torch.float32)
    with pytest.raises(RuntimeError):
        fleet.logits(torch.ones(5, 3, 4))


def test_norms_of_which_some_are_in_evaluation_keep_their_modes() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3))

    fleet = make_fleet(build, 2)
    images = draw_images(fleet, 5, (4,))
    plain = plain_net(fleet, 0)
    for net in (plain, fleet.module):
        net.train()
        net[2].eval()  # type: ignore[index]
    try:
        outputs = fleet.logits(images)
    except RuntimeError:
        return  # refused
    assert_near(outputs[0], plain(images[:, 0]), "modes")
