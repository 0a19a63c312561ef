"""The device that fleets run on: its name, its free memory, the settings of PyTorch on it."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from threeregime.errors import ThreeRegimeError


def resolve_device(name: str) -> str:
    """Turn auto into cuda where there is one; refuse a device that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ThreeRegimeError(f"device = {name!r} is not here: use cpu or auto") from None
    return name


def device_name(device: str) -> str:
    """The device in words, e.g. the GPU's or the processor's name."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"CPU, {model}, one of {os.cpu_count()} cores"


def free_memory(device: str) -> int:
    """Bytes that can be had on the device now."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    import psutil
    from distributed.system import MEMORY_LIMIT  # of the container, where there is one

    return min(psutil.virtual_memory().available, MEMORY_LIMIT)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


@contextmanager
def compute_settings(device: torch.device | str, threads: int | None = 1) -> Iterator[None]:
    """Set this process up to compute on a device, and put its settings back afterwards.

    On a CPU: the number of threads, and freed memory stays in the process. On a GPU: cuDNN picks
    its fastest kernels, and float32 is float32 (training asks for less by itself).

    Args:
        device: where fleets compute.
        threads: of PyTorch on a CPU; None leaves them. One thread a fleet is the default: two
            fleets on two cores do more than one fleet on two threads, and numbers do not depend
            on how many workers there are.
    """
    if torch.device(device).type == "cuda":
        with _cuda_settings():
            yield
        return
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with _memory_kept():
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _cuda_settings() -> Iterator[None]:
    matmul = torch.backends.cuda.matmul
    with torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled,
        benchmark=True,
        deterministic=torch.backends.cudnn.deterministic,
        allow_tf32=False,
    ):
        before, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            yield
        finally:
            matmul.allow_tf32 = before


# Parameters of glibc's mallopt, and the values that it starts with.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _INITIAL = -1, -3, 128 << 10


@contextmanager
def _memory_kept() -> Iterator[None]:
    """Keep freed memory in the process: glibc gives every large activation back at once.

    Faulting it in again takes a quarter of a step. Elsewhere than on glibc this does nothing.
    """
    mallopt = _mallopt()
    if mallopt is None or _nesting.depth:
        yield
        return
    _nesting.depth += 1
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
    try:
        yield
    finally:
        _nesting.depth -= 1
        mallopt(_MMAP_THRESHOLD, _INITIAL)
        mallopt(_TRIM_THRESHOLD, _INITIAL)


class _Nesting:
    """How many contexts are open in this process, where glibc has one setting for all."""

    depth = 0


_nesting = _Nesting()


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    try:
        found: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return None
    return found
