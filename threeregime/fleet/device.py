"""What there is to run on: its name, its memory, and where things are kept for it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path

import torch

from threeregime.errors import ThreeRegimeError

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.high"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files that hold a container's memory limit: of cgroups version 2, then of version 1."""


def device_here(name: str) -> str:
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

    return min([psutil.virtual_memory().available, *_container_limits()])


def _container_limits() -> Iterator[int]:
    """Yield the memory limits in bytes of the container that this process runs in."""
    for path in CONTAINER_LIMITS:
        # A file that is missing or says "max" sets no limit.
        with contextlib.suppress(OSError, ValueError):
            yield int(path.read_text())


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def prepare(device: str) -> None:
    """Set this process up to train fleets on the device."""
    if device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        # What is measured in float32 shall be float32; training asks for less by itself.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        return
    # One thread a fleet: two fleets on two cores do more than one fleet on two threads, and
    # the numbers do not depend on how many workers there are.
    torch.set_num_threads(1)
    _keep_memory()


@functools.cache
def _keep_memory() -> None:
    """Keep freed memory in the process: glibc gives every large activation back at once.

    Faulting it in again takes a quarter of a step. Elsewhere than on glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, (1 << 31) - 1)
