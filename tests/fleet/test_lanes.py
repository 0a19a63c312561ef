"""The convolution in lanes: each net's is PyTorch's own, in values and in gradients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import backends, engine, lanes

needs_compiler = pytest.mark.skipif(
    not lanes.available(), reason="no C++ compiler: apt-get install g++"
)

KERNELS = [(1, 0), (3, 1), (3, 0), (5, 2), (3, 3), (1, 1)]  # side, padding
SIDES = [(7, 5), (8, 8), (3, 1), (2, 2), (1, 1)]
# Empty and full vector registers, and all that is between: 16 float32 or 8 float64 fill one.
MEMBERS = [1, 3, 8, 27, 32]
SHAPES = [(5, 1, 6), (4, 4, 8), (9, 5, 3), (1, 7, 4)]  # batch, channels in, channels out


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    yield
    torch.set_num_threads(1)


def packed(images: Tensor) -> Tensor:
    """Lay [M, batch, channels, h, w] out as [batch, channels * M, h, w], channels last."""
    flat = images.detach().permute(1, 2, 0, 3, 4).flatten(1, 2)
    return flat.contiguous(memory_format=torch.channels_last)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_values_and_gradients_are_those_of_each_net_alone(stride: int, dtype: torch.dtype) -> None:
    torch.manual_seed(stride)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    cases = 0
    grid = itertools.product(KERNELS, SIDES, MEMBERS)
    for number, ((kernel, padding), (height, width), members) in enumerate(grid):
        if min(height, width) + 2 * padding < kernel:
            continue
        batch, before, after = SHAPES[number % len(SHAPES)]
        x = torch.randn(members, batch, before, height, width, dtype=dtype, requires_grad=True)
        w = torch.randn(members, after, before, kernel, kernel, dtype=dtype, requires_grad=True)
        alone = torch.stack([F.conv2d(x[m], w[m], None, stride, padding) for m in range(members)])
        grad = torch.randn_like(alone)
        grad_x, grad_w = torch.autograd.grad(alone, (x, w), grad)
        ours_x = packed(x).requires_grad_()
        ours_w = w.detach().permute(1, 2, 3, 4, 0).contiguous().requires_grad_()
        ours = lanes.conv2d(ours_x, ours_w, stride, padding)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        got = (ours, *torch.autograd.grad(ours, (ours_x, ours_w), packed(grad)))
        for have, want in zip(
            got, (packed(alone), packed(grad_x), grad_w.permute(1, 2, 3, 4, 0)), strict=True
        ):
            assert have.shape == want.shape
            scale = max(1.0, want.abs().max().item())
            assert (have - want).abs().max().item() < tolerance * scale, (
                f"{stride=} {kernel=} {padding=} {height=} {width=} {members=} {batch=}"
            )
        cases += 1
    assert cases > 100


@needs_compiler
def test_every_number_of_nets_fits() -> None:
    """Vectors of 64 bytes, then narrower ones for the rest: no net is left out or read twice."""
    torch.manual_seed(0)
    for members in range(1, 50):
        x = torch.randn(members, 5, 2, 4, 4, dtype=torch.float64)
        w = torch.randn(members, 5, 2, 3, 3, dtype=torch.float64)
        alone = torch.stack([F.conv2d(x[m], w[m], padding=1) for m in range(members)])
        ours = lanes.conv2d(packed(x), w.permute(1, 2, 3, 4, 0).contiguous(), 1, 1)
        torch.testing.assert_close(ours, packed(alone), rtol=1e-12, atol=1e-12)
        ours = lanes.conv2d(packed(x.float()), w.float().permute(1, 2, 3, 4, 0).contiguous(), 1, 1)
        torch.testing.assert_close(ours.double(), packed(alone), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_any_order_in_memory_gives_the_same() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3 * 16, 6, 6)
    w = torch.randn(5, 3, 3, 3, 16)
    expected = lanes.conv2d(x.contiguous(memory_format=torch.channels_last), w, 2, 1)
    assert torch.equal(lanes.conv2d(x, w, 2, 1), expected)
    strided = w.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert not strided.is_contiguous()
    assert torch.equal(lanes.conv2d(x, strided, 2, 1), expected)


@needs_compiler
def test_no_thread_count_changes_a_bit() -> None:
    def compute(threads: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        x = torch.randn(32, 8 * 48, 8, 8).contiguous(memory_format=torch.channels_last)
        w = torch.randn(8, 8, 3, 3, 48)
        x.requires_grad_()
        w.requires_grad_()
        y = lanes.conv2d(x, w, 1, 1)
        return (y, *torch.autograd.grad(y.square().sum(), (x, w)))

    one = compute(1)
    for threads in (2, 2, 3):
        assert all(map(torch.equal, one, compute(threads)))


@needs_compiler
def test_what_pytorch_asks_of_an_operator() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 2 * 16, 6, 6, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(4, 2, 3, 3, 16, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(torch.ops.threeregime.conv2d, (x, w, 2, 1))


@needs_compiler
@pytest.mark.parametrize(
    ("x", "w", "padding"),
    [
        ((2, 6, 4, 4), (3, 2, 3, 3, 4), 1),  # 6 channels, 2 x 4 expected
        ((2, 8, 4, 4), (3, 2, 3, 1, 4), 1),  # a kernel that is not square
        ((2, 8, 2, 2), (3, 2, 5, 5, 4), 1),  # a kernel larger than the padded image
    ],
)
def test_shapes_that_do_not_fit_are_refused(
    x: tuple[int, ...], w: tuple[int, ...], padding: int
) -> None:
    with pytest.raises(RuntimeError, match="lanes: "):
        lanes.conv2d(torch.zeros(x), torch.zeros(w), 1, padding)


@needs_compiler
def test_a_cpu_with_a_compiler_fills_its_lanes() -> None:
    assert engine.candidate_engines("cpu", 48)[0] == engine.Engine("lanes")
    assert "lanes" not in {e.backend for e in engine.candidate_engines("cpu", 2)}  # mostly empty
    assert "lanes" not in {e.backend for e in engine.candidate_engines("cuda", 48)}


@pytest.mark.parametrize("compiler", ["", "false"])
def test_without_a_working_compiler_it_says_so_in_one_line(
    compiler: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setattr("shutil.which", lambda name: None)
    without = lanes.available.__wrapped__
    assert without() is False
    lines = capsys.readouterr().err.splitlines()
    if compiler:  # it had to be tried
        assert "compiling" in lines.pop(0)
    assert len(lines) == 1
    assert "half the speed" in lines[0]
    assert not list(tmp_path.rglob("*.so"))
    monkeypatch.setattr(lanes, "available", without)
    assert "lanes" not in {e.backend for e in engine.candidate_engines("cpu", 48)}


class _Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize("backend", ["grouped", "lanes"])
def test_a_layer_that_cannot_be_stacked_is_named(backend: str) -> None:
    with pytest.raises(ThreeRegimeError, match=r"type _Odd cannot run in a fleet"):
        backends.BACKENDS[backend].stack(nn.Sequential(_Odd()), 2)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, (3, 1)),
        nn.Conv2d(4, 4, 3, stride=(1, 2)),
        nn.Conv2d(4, 4, 3, padding=(1, 0)),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
    ids=str,
)
def test_convolutions_that_lanes_do_not_do_are_refused(conv: nn.Conv2d) -> None:
    with pytest.raises(ThreeRegimeError, match="use grouped"):
        backends.BACKENDS["lanes"].stack(conv, 2)


@pytest.mark.parametrize("backend", sorted(backends.BACKENDS))
@pytest.mark.parametrize("bias", [False, True])
def test_single_layers_stack(backend: str, bias: bool) -> None:
    """Biases and several outputs, which the paper's nets have none or few of."""
    if backend == "lanes" and not lanes.available():
        pytest.skip("no C++ compiler: apt-get install g++")
    from threeregime.fleet.fleet import Fleet

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=bias),
            nn.ReLU(),
            nn.AvgPool2d(3),
            nn.Flatten(),
            nn.Linear(4, 6, bias=bias),
        )

    torch.manual_seed(0)
    fleet = Fleet.initial(build, [1, 2, 3], dtype=torch.float64, backend=backend)
    images = torch.randn(5, 3, 3, 6, 6, dtype=torch.float64)
    together = fleet.logits(images)
    assert together.shape == (3, 5, 6)
    for member in range(3):
        plain = build().double()
        plain.load_state_dict({name: t[member] for name, t in fleet.state().items()})
        torch.testing.assert_close(together[member], plain(images[:, member]))
        # one batch for all
        torch.testing.assert_close(
            fleet.logits(fleet.broadcast(images[:, 0]))[member], plain(images[:, 0])
        )
