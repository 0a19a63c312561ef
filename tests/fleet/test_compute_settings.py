"""Settings for computing on a device hold inside their context and are put back after it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from threeregime.fleet import compute_settings, device, spare_threads

KEPT, INITIAL = [(-3, 1 << 30), (-1, (1 << 31) - 1)], [(-3, 128 << 10), (-1, 128 << 10)]


@pytest.fixture
def mallopt(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Settings of glibc, as they are made."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(device, "_mallopt", lambda: lambda *setting: calls.append(setting))
    return calls


@pytest.mark.parametrize("fails", [False, True])
def test_settings_of_a_cpu_are_put_back(
    fails: bool, threads: None, mallopt: list[tuple[int, int]]
) -> None:
    try:
        with compute_settings("cpu"):
            assert torch.get_num_threads() == 1
            assert mallopt == KEPT
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert torch.get_num_threads() == 2
    assert mallopt == KEPT + INITIAL


def test_contexts_inside_each_other_end_with_the_outermost(
    threads: None, mallopt: list[tuple[int, int]]
) -> None:
    def fail() -> None:
        with compute_settings("cpu", threads=1):
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError

    with compute_settings("cpu", threads=3):
        with pytest.raises(ZeroDivisionError):
            fail()
        assert torch.get_num_threads() == 3
        assert mallopt == KEPT
    assert torch.get_num_threads() == 2
    assert mallopt == KEPT + INITIAL
    with compute_settings("cpu"):
        pass
    assert mallopt == 2 * (KEPT + INITIAL)


def test_none_leaves_the_threads(threads: None) -> None:
    with compute_settings("cpu", threads=None):
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("busy", "spare"), [([0, 0], 2), ([100, 3], 1), ([100, 100], 1), ([55, 95, 0, 0], 2)]
)
def test_threads_are_spare_where_cores_are_idle(
    busy: list[float], spare: int, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.cpu_percent", lambda seconds, percpu: busy)
    assert spare_threads() == spare


def test_without_glibc_there_is_nothing_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_mallopt", lambda: None)
    with compute_settings("cpu"):
        pass


def flags() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    matmul = torch.backends.cuda.matmul
    return cudnn.benchmark, cudnn.allow_tf32, matmul.allow_tf32, cudnn.enabled, cudnn.deterministic


@pytest.fixture(params=[False, True])
def tf32(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether products of matrices may round to TF32 before the test."""
    matmul = torch.backends.cuda.matmul
    before, matmul.allow_tf32 = matmul.allow_tf32, request.param
    yield request.param
    matmul.allow_tf32 = before


@pytest.mark.parametrize("fails", [False, True])
def test_settings_of_a_gpu_are_put_back(
    fails: bool, tf32: bool, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    current = ["cuda"]  # a stack: streams and graphs are made on the last one

    @contextlib.contextmanager
    def on_device(name: str) -> Iterator[None]:
        current.append(name)
        try:
            yield
        finally:
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", on_device)
    before = flags()
    try:
        with compute_settings("cuda"):
            assert flags() == (True, False, False, *before[3:])
            assert torch.get_num_threads() == 2
            with compute_settings("cuda:1"):
                assert current[-1] == "cuda:1"
                assert flags() == (True, False, False, *before[3:])
            assert flags() == (True, False, False, *before[3:])
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert flags() == before
    assert current[-1] == "cuda"
    assert before[2] is tf32
