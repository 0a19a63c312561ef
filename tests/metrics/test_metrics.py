"""LMC and CKA: against values by hand, their definitions, and on real small fleets."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from threeregime.data import registry
from threeregime.data.images import Dataset, ImageBatches, plain_images
from threeregime.fleet.fleet import Fleet, State
from threeregime.metrics.functional import cka, line_points, lmc
from threeregime.metrics.pairs import interpolate, line_errors, measure_pairs, reestimate_batch_norm
from threeregime.models.registry import PreResNet
from threeregime.protocol import Training
from threeregime.training.evaluation import evaluate_errors, evaluate_outputs
from threeregime.training.run import TrainingRun

quick = settings(max_examples=60, deadline=None, derandomize=True)


# --- LMC of a curve


def test_a_barrier_by_hand() -> None:
    curve = torch.tensor([0.02, 0.1, 0.3, 0.5, 0.7, 0.6, 0.4, 0.3, 0.2, 0.1, 0.04])
    value, t_star = lmc(curve)
    assert value.item() == pytest.approx(0.03 - 0.7, abs=1e-7)
    assert t_star.item() == pytest.approx(0.4)


def test_a_dip_counts_when_it_is_the_larger_gap() -> None:
    """Equation (1) takes the largest absolute gap: an error below both ends is positive."""
    dip = torch.tensor([0.5, 0.45, 0.2, 0.52, 0.5])
    value, t_star = lmc(dip)
    assert value.item() == pytest.approx(0.3, abs=1e-7)
    assert t_star.item() == pytest.approx(0.5)
    value, t_star = lmc(torch.tensor([0.5, 0.45, 0.4, 0.9, 0.5]))
    assert value.item() == pytest.approx(-0.4, abs=1e-7)
    assert t_star.item() == pytest.approx(0.75)


def test_a_straight_line_has_its_gap_at_the_ends() -> None:
    value, _ = lmc(torch.linspace(0, 0.2, 11, dtype=torch.float64))
    assert abs(value.item()) == pytest.approx(0.1)
    value, t_star = lmc(torch.full((11,), 0.3))
    assert (value.item(), t_star.item()) == (0.0, 0.0)


@quick
@given(st.lists(st.lists(st.floats(0, 1), min_size=11, max_size=11), min_size=1, max_size=5))
def test_lmc_is_equation_one(curves: list[list[float]]) -> None:
    values, t_stars = lmc(torch.tensor(curves, dtype=torch.float64))
    for curve, value, t_star in zip(curves, values.tolist(), t_stars.tolist(), strict=True):
        mean = (curve[0] + curve[-1]) / 2
        assert abs(value) == pytest.approx(max(abs(mean - e) for e in curve), abs=1e-12)
        assert value == pytest.approx(mean - curve[round(10 * t_star)], abs=1e-12)


def test_a_curve_with_a_hole_is_nan_and_its_neighbours_are_not() -> None:
    curves = torch.full((3, 11), 0.1)
    curves[:, 5] = 0.4
    curves[1, 7] = math.nan
    value, t_star = lmc(curves)
    assert value.isnan().tolist() == t_star.isnan().tolist() == [False, True, False]
    assert value[[0, 2]].tolist() == pytest.approx([-0.3, -0.3], abs=1e-7)


def test_points_on_the_line() -> None:
    assert line_points().tolist() == pytest.approx([i / 10 for i in range(11)])
    assert line_points(3).tolist() == [0.0, 0.5, 1.0]


# --- CKA of two sets of outputs


def gram_cka(x: Tensor, y: Tensor) -> float:
    """Equation (2) as it is written: centred Gram matrices, their traces."""
    samples = len(x)
    centre = torch.eye(samples, dtype=torch.float64) - 1 / samples
    k, l = (centre @ (part.double() @ part.double().mT) @ centre for part in (x, y))  # noqa: E741

    def hsic(a: Tensor, b: Tensor) -> float:
        return float((a @ b).trace()) / (samples - 1) ** 2

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def features(seed: int, samples: int, size: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, size, generator=generator, dtype=torch.float64) * scale + shift


sizes = st.integers(1, 12)
seeds = st.integers(0, 10_000)


@quick
@given(seeds, st.integers(2, 40), sizes, sizes, st.floats(-3, 3), st.floats(-100, 100))
def test_cka_equals_its_definition_by_gram_matrices(
    seed: int, samples: int, left: int, right: int, exponent: float, shift: float
) -> None:
    x = features(seed, samples, left)
    y = features(seed + 1, samples, right, 10**exponent, shift)
    y[:, 0] += x[:, 0]
    got = float(cka(x, y))
    assert got == pytest.approx(gram_cka(x, y), abs=1e-10)
    assert -1e-12 <= got <= 1 + 1e-12
    assert float(cka(y, x)) == pytest.approx(got, abs=1e-12)


@quick
@given(seeds, st.integers(1, 10), st.floats(-6, 6), st.floats(-10, 10))
def test_cka_is_blind_to_rotation_scale_and_shift(
    seed: int, size: int, exponent: float, shift: float
) -> None:
    x, y = features(seed, 30, size), features(seed + 1, 30, size)
    rotation, _ = torch.linalg.qr(features(seed + 2, size, size))
    expected = float(cka(x, y))
    assert float(cka(x @ rotation, y)) == pytest.approx(expected, abs=1e-10)
    assert float(cka(x, y * 10**exponent)) == pytest.approx(expected, abs=1e-10)
    assert float(cka(x, -y)) == pytest.approx(expected, abs=1e-10)
    assert float(cka(x + shift, y)) == pytest.approx(expected, abs=1e-9)
    assert float(cka(x, (x @ rotation) * 10**exponent)) == pytest.approx(1, abs=1e-10)


def test_cka_is_not_blind_to_everything() -> None:
    x = features(0, 50, 4)
    stretched = x * torch.tensor([1.0, 1.0, 1.0, 30.0])
    assert float(cka(x, stretched)) < 0.9
    unrelated = features(1, 2000, 2), features(2, 2000, 2)
    assert float(cka(*unrelated)) < 0.02
    assert float(cka(x, x.flip(0))) < 0.9  # samples are matched by position


def test_cka_of_many_pairs_is_that_of_each() -> None:
    x = torch.stack([features(i, 20, 5) for i in range(6)]).view(2, 3, 20, 5)
    y = torch.stack([features(i + 9, 20, 5) for i in range(6)]).view(2, 3, 20, 5)
    whole = cka(x, y)
    assert whole.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            assert float(whole[i, j]) == pytest.approx(gram_cka(x[i, j], y[i, j]), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6, 1 / 3])
def test_constant_outputs_have_no_cka_and_a_warning_says_so(
    constant: float, dtype: torch.dtype
) -> None:
    x, flat = features(0, 797, 3), torch.full((797, 3), constant, dtype=dtype)
    if (constant, dtype) == (0.1, torch.float64):
        assert (flat.mean(dim=0) != constant).any()  # rounding alone makes them differ
    for pair in ((x, flat), (flat, x), (flat, flat)):
        with pytest.warns(RuntimeWarning, match=r"CKA is undefined .*same for every sample"):
            assert math.isnan(cka(*pair))
    with pytest.warns(RuntimeWarning, match="CKA is undefined"):
        both = cka(torch.stack([x, x]), torch.stack([flat.double(), x]))
    assert both.isnan().tolist() == [True, False]
    assert float(both[1]) == pytest.approx(1, abs=1e-12)


def test_nearly_constant_outputs_do_have_one() -> None:
    x = features(0, 200, 3)
    softened = 1 / 3 + 1e-6 * x
    assert float(cka(x, softened)) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_outputs_that_are_not_finite_have_no_cka(bad: float) -> None:
    x = features(0, 20, 3)
    broken = x.clone()
    broken[3, 1] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = cka(torch.stack([x, x]), torch.stack([broken, x]))
    assert values.isnan().tolist() == [True, False]


# --- on fleets


def build() -> PreResNet:
    return PreResNet(depth=8, width=0.25, channels=1, classes=10)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return registry.load_images("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Fleet:
    """Four small nets after two epochs: two copies of one start, a third start, a broken one."""
    fleet = Fleet.initial(build, [1, 1, 2, 2])
    loader = ImageBatches(digits, [5, 6, 7, 8], 32, crop=1, flip=False)
    run = TrainingRun(fleet, loader, Training(lr=0.1, epochs=2, milestones=(), batch_size=32))
    run.run_epoch()
    run.run_epoch()
    state = fleet.state()
    state["linear.weight"][3, 0, 0] = math.nan
    return fleet.with_state(state)


def members(fleet: Fleet, which: list[int]) -> State:
    return {name: tensor[which] for name, tensor in fleet.state().items()}


def test_identical_copies_have_lmc_0_and_cka_1(trained: Fleet, digits: Dataset) -> None:
    same = measure_pairs(trained, [(0, 0), (2, 2)], digits)
    assert same.lmc.tolist() == [0.0, 0.0]
    assert same.curve.shape == (2, 11)
    assert (same.curve == same.curve[:, :1]).all()
    for similarity in (same.cka_softmax, same.cka_logits):
        assert similarity.tolist() == pytest.approx([1.0, 1.0], abs=1e-12)


def test_pairs_are_measured_beside_one_that_diverged(trained: Fleet, digits: Dataset) -> None:
    pairs = [(0, 1), (2, 3), (1, 2), (3, 3)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = measure_pairs(trained, pairs, digits)
        alone = measure_pairs(
            trained.with_state(members(trained, [0, 1, 2])), [(0, 1), (1, 2)], digits
        )
    for field in ("lmc", "t_star", "cka_softmax", "cka_logits"):
        values = getattr(got, field)
        assert values.dtype == torch.float64
        assert values.isnan().tolist() == [False, True, False, True], field
        torch.testing.assert_close(values[[0, 2]], getattr(alone, field), rtol=1e-4, atol=1e-4)
    assert got.curve[[1, 3]].isnan().all()
    assert not got.curve[[0, 2]].isnan().any()
    # different copies do differ, and different starts are further apart
    assert 0 < got.cka_logits[2] < got.cka_logits[0] < 1
    # both kinds of output are measured, and they are not the same
    logits = evaluate_outputs(trained, digits, 6464)
    assert logits.shape == (4, 797, 10)
    for features, values in ((logits, got.cka_logits), (logits.softmax(dim=-1), got.cka_softmax)):
        for pair, value in zip(pairs[:1] + pairs[2:3], values[[0, 2]].tolist(), strict=True):
            expected = gram_cka(features[pair[0]], features[pair[1]])
            assert value == pytest.approx(expected, abs=1e-10)
    fewer = measure_pairs(trained, [(0, 1)], digits, points=3, samples=100)
    assert fewer.curve.shape == (1, 3)
    logits = evaluate_outputs(trained, digits, 100)
    assert logits.shape == (4, 100, 10)
    assert fewer.cka_logits.item() == pytest.approx(gram_cka(logits[0], logits[1]), abs=1e-10)


def test_both_ends_of_the_curve_are_the_copies_own_errors(trained: Fleet, digits: Dataset) -> None:
    curve = line_errors(trained, members(trained, [0, 2]), members(trained, [1, 0]), digits, 5)
    own = trained.with_state(members(trained, [0, 2, 1, 0]))
    before = evaluate_errors(own, digits, train=True)
    reestimate_batch_norm(own, digits)
    after = evaluate_errors(own, digits, train=True)
    assert curve.shape == (2, 5)
    assert curve[:, 0].tolist() == after[:2].tolist()
    assert curve[:, -1].tolist() == after[2:].tolist()
    # running averages of augmented batches are something else
    assert before.tolist() != after.tolist()


def test_the_line_is_straight_in_every_parameter_and_matched_by_name(trained: Fleet) -> None:
    a, b = members(trained, [0, 1]), members(trained, [1, 2])
    shuffled = dict(reversed(b.items()))
    for t in (0.0, 0.3, 0.5, 1.0):
        for name, tensor in interpolate(a, shuffled, t).items():
            torch.testing.assert_close(tensor, (1 - t) * a[name] + t * b[name])
    for name in a:
        assert torch.equal(interpolate(a, b, 0.0)[name], a[name])
        assert torch.equal(interpolate(a, b, 1.0)[name], b[name])


class Line(nn.Module):
    """Two features, norm, linear: on its line between two copies all can be worked out by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.linear = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).mean(dim=(2, 3)))


@pytest.fixture
def flags() -> Dataset:
    """Black and white 2x2 pictures: four black ones of class 0, four white ones of class 1."""
    labels = torch.arange(8) % 2
    images = (labels * 255).to(torch.uint8)[:, None, None, None].expand(8, 1, 2, 2).contiguous()
    return Dataset("flags", images, labels, images, labels, (0.5,), (0.5,), classes=2)


def line_state(sign: float, **changes: Tensor) -> State:
    fleet = Fleet.initial(Line, [0], dtype=torch.float64)
    state = fleet.state()
    state["conv.weight"] = torch.tensor([sign, -sign], dtype=torch.float64).view(1, 2, 1, 1, 1)
    state["linear.weight"] = torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]], dtype=torch.float64) * sign
    state["linear.bias"] = torch.tensor([[0.1, 0.0]], dtype=torch.float64)
    return state | changes


def test_a_barrier_made_by_hand_has_the_value_computed_by_hand(flags: Dataset) -> None:
    """Two copies that are mirrored in their hidden units.

    Both are always right. Half way every weight is 0: the bias, 0.1 for class 0, decides, and half
    of the pictures are wrong. Elsewhere norms re-estimated on the line undo the smaller convolution
    and the smaller linear layer, |1 - 2t| wide, still outdoes the bias: 2 * 0.2 > 0.1.
    """
    left, right = line_state(1.0), line_state(-1.0)
    both = {name: torch.cat([left[name], right[name]]) for name in left}
    fleet = Fleet(Line, both, dtype=torch.float64)
    got = measure_pairs(fleet, [(0, 1), (0, 0), (1, 0)], flags)
    barrier = [0.0] * 5 + [0.5] + [0.0] * 5
    assert got.curve.tolist() == [barrier, [0.0] * 11, barrier]
    assert got.lmc.tolist() == [-0.5, 0.0, -0.5]
    assert got.t_star[[0, 2]].tolist() == [0.5, 0.5]
    # the two are the same function: as similar as can be, and yet not connected
    assert got.cka_logits.tolist() == pytest.approx([1, 1, 1], abs=1e-12)


def test_norms_are_re_estimated_along_the_line(flags: Dataset) -> None:
    """Copies whose own statistics are far off, and so is whatever lies between them.

    Both put every picture in class 1 as long as a running mean of -3 is believed.
    """
    off = torch.tensor([[-3.0, 3.0]], dtype=torch.float64)
    states = [line_state(sign, **{"norm.running_mean": off * sign}) for sign in (1.0, 2.0)]
    both = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    fleet = Fleet(Line, both, dtype=torch.float64)
    assert evaluate_errors(fleet, flags, train=True).tolist() == [0.5, 0.5]
    got = measure_pairs(fleet, [(0, 1)], flags)
    assert got.curve.tolist() == [[0.0] * 11]
    # measuring works on copies: the fleet keeps its own statistics
    assert torch.equal(fleet.state()["norm.running_mean"], both["norm.running_mean"])


def first_norm_inputs(fleet: Fleet, images: Tensor) -> Tensor:
    """What the first norm sees of each member: [M, batch, channels, h, w]."""
    convolved = [torch.conv2d(images, weight, padding=1) for weight in fleet.state()["conv.weight"]]
    return torch.stack(convolved)


@pytest.mark.parametrize("count", [100, 256])
def test_norms_of_a_set_of_one_batch_have_its_statistics(count: int, digits: Dataset) -> None:
    small = Dataset(
        "few",
        digits.train_images[:count],
        digits.train_labels[:count],
        digits.test_images,
        digits.test_labels,
        digits.mean,
        digits.std,
        classes=10,
    )
    fleet = Fleet.initial(build, [1, 2], dtype=torch.float64)
    reestimate_batch_norm(fleet, small)
    seen = first_norm_inputs(fleet, plain_images(small, small.train_images, torch.float64))
    state = fleet.state()
    name = "stages.0.norm1"
    torch.testing.assert_close(state[f"{name}.running_mean"], seen.mean(dim=(1, 3, 4)))
    torch.testing.assert_close(
        state[f"{name}.running_var"], seen.transpose(1, 2).flatten(2).var(dim=2)
    )


def test_norms_of_a_larger_set_weigh_its_batches_by_size(digits: Dataset) -> None:
    fleet = Fleet.initial(build, [1, 2], dtype=torch.float64)
    reestimate_batch_norm(fleet, digits)
    seen = first_norm_inputs(fleet, plain_images(digits, digits.train_images, torch.float64))
    state = fleet.state()
    torch.testing.assert_close(
        state["stages.0.norm1.running_mean"], seen.mean(dim=(1, 3, 4)), rtol=1e-10, atol=1e-12
    )
    # 797 images in four batches of 200, 199, 199 and 199; each one's own variance
    parts = seen.transpose(1, 2).tensor_split(4, dim=2)
    expected = sum(part.flatten(2).var(dim=2) * part.shape[2] / 797 for part in parts)
    torch.testing.assert_close(
        state["stages.0.norm1.running_var"], expected, rtol=1e-10, atol=1e-12
    )
    # and the momentum of training is as before
    assert all(norm.momentum == 0.1 for norm in fleet.batch_norms())


def test_errors_are_fractions_of_a_whole_split(flags: Dataset) -> None:
    state = line_state(1.0)
    # with statistics of an untrained norm (mean 0, variance 1) pictures are told apart already
    fleet = Fleet(Line, {n: torch.cat([t, t]) for n, t in state.items()}, dtype=torch.float64)
    assert evaluate_errors(fleet, flags, train=True).tolist() == [0.0, 0.0]
    wrong = Dataset(
        "three of eight",
        flags.train_images,
        torch.tensor([1, 1, 1, 1, 1, 1, 0, 1]),
        flags.test_images[:5],
        flags.test_labels[:5],
        flags.mean,
        flags.std,
        classes=2,
    )
    assert evaluate_errors(fleet, wrong, train=True).tolist() == [0.375, 0.375]
    assert evaluate_errors(fleet, wrong, train=False).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("batch", [1, 300])
def test_errors_do_not_depend_on_the_batch_they_are_taken_in(
    batch: int, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = Fleet.initial(build, [1, 2], dtype=torch.float64)
    reestimate_batch_norm(fleet, digits)
    few = Dataset(
        "few",
        digits.train_images[:40],
        digits.train_labels[:40],
        digits.test_images[:40],
        digits.test_labels[:40],
        digits.mean,
        digits.std,
        classes=10,
    )
    expected = evaluate_errors(fleet, few, train=False)
    assert (expected > 0).all()
    monkeypatch.setattr("threeregime.data.task.EVALUATION_BATCH", batch)
    assert torch.equal(evaluate_errors(fleet, few, train=False), expected)
