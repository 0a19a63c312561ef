"""The device that fleets run on: its name, its free memory and the settings for computing on it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from threeregime._fields import require, shorten
from threeregime.errors import ThreeRegimeError
from threeregime.kernels import processor_field

CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.high"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Files that hold a container's memory limit: of cgroups version 2, then of version 1."""

CHANNELS = 8
"""Number of channels in a vector of processors without AVX-512."""

BUSY_SECONDS = 0.1
"""Time for which :func:`spare_threads` watches the cores."""


def resolve_device(name: str) -> str:
    """Return a device that is available, else raise; ``auto`` is cuda if available, else cpu."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        # PyTorch knows more devices, and numbers the CPU as well; no engine runs on them.
        if name != "cpu" and torch.device(name).type != "cuda":
            raise RuntimeError
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError):
        raise ThreeRegimeError(
            f"device = {shorten(name)} is not available: use cpu or auto"
        ) from None
    return name


def device_name(device: str) -> str:
    """Return the name of the GPU, or of the processor with its number of cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    model = processor_field("model name").split(":", 1)[-1].strip()
    return f"CPU, {model}, one of {os.cpu_count()} cores"


def free_memory(device: str) -> int:
    """Bytes that can be had on the device now."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return min([psutil.virtual_memory().available, *_container_limits()])


def spare_threads() -> int:
    """Return how many of PyTorch's threads find a core that is idle now, at least one.

    Threads of one step wait for each other at every layer: one that shares its core with another
    program makes the step a hundred times slower than a single thread would.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    import psutil

    cores = psutil.cpu_percent(BUSY_SECONDS, percpu=True)
    return max(1, min(threads, round(len(cores) - sum(cores) / 100)))


def _container_limits() -> Iterator[int]:
    """Yield the memory limits in bytes of the container that this process runs in."""
    for path in CONTAINER_LIMITS:
        # A file that is missing or says "max" sets no limit.
        with suppress(OSError, ValueError):
            yield int(path.read_text())


def avoid_faulty_convolutions(module: nn.Module) -> None:
    """Have PyTorch convolve without oneDNN if its gradients of a module's weights are faulty.

    On processors without AVX-512, oneDNN of PyTorch 2.11 takes whole vectors of eight channels in
    the gradient of a 1 x 1 convolution with a stride, and writes behind its memory if there are
    fewer: the process is aborted. The setting is the process's, since a backward pass may run long
    after its forward pass.
    """
    layers = (part for part in module.modules() if isinstance(part, _ConvNd))
    if "AVX512" not in torch.backends.cpu.get_cpu_capability() and any(map(_is_faulty, layers)):
        torch.backends.mkldnn.set_flags(_enabled=False)


def _is_faulty(layer: _ConvNd) -> bool:
    strided = set(layer.kernel_size) == {1} and max(layer.stride) > 1
    return strided and layer.groups == 1 and layer.in_channels < CHANNELS


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the device has no memory left."""
    raised_by_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return raised_by_cpu or isinstance(error, torch.OutOfMemoryError | MemoryError)


@contextmanager
def compute_settings(device: torch.device | str, threads: int | None = 1) -> Iterator[None]:
    """Return a context with the settings for computing on a device; they are restored after it.

    On a CPU: the number of threads, and freed memory stays in the process. On a GPU: cuDNN picks
    its fastest kernels, and float32 products are not rounded to TF32.

    Args:
        device: device of the fleets.
        threads: number of PyTorch's threads on a CPU; None leaves it. The default is one, since
            two fleets on two cores do more than one fleet on two threads, and since numbers must
            not depend on how many workers run.
    """
    with contextlib.ExitStack() as settings:
        if torch.device(device).type == "cuda":
            # Streams and graphs are made on the current device, whatever the tensors' device.
            settings.enter_context(torch.cuda.device(device))
            cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
            flags = {"enabled": cudnn.enabled, "deterministic": cudnn.deterministic}
            settings.enter_context(cudnn.flags(benchmark=True, allow_tf32=False, **flags))
            settings.callback(setattr, matmul, "allow_tf32", matmul.allow_tf32)
            matmul.allow_tf32 = False
        else:
            settings.callback(torch.set_num_threads, torch.get_num_threads())
            if threads is not None:
                torch.set_num_threads(threads)
            settings.enter_context(_RETAINED_MEMORY)
        yield


@contextmanager
def random_state_kept(seed: int) -> Iterator[None]:
    """Seed PyTorch inside the context; restore all random number generators after it.

    Raises:
        ThreeRegimeError: the seed has more than 64 bits.
    """
    require(-(2**63) <= seed < 2**64, "seed", seed, "a whole number of at most 64 bits")
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's code may use it
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class _RetainedMemory:
    """Context in which glibc keeps freed memory in the process; elsewhere it does nothing.

    By default glibc returns every large activation to the system at once, and mapping it again
    takes a quarter of a step. Contexts may be nested: the setting holds for the whole process and
    ends with the outermost one. glibc cannot report it, so its initial value is put back.
    """

    MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1  # parameters of mallopt
    INITIAL = 128 << 10
    depth = 0

    def __enter__(self) -> None:
        if not self.depth:
            self._set(1 << 30, (1 << 31) - 1)
        self.depth += 1

    def __exit__(self, *error: object) -> None:
        self.depth -= 1
        if not self.depth:
            self._set(self.INITIAL, self.INITIAL)

    def _set(self, mmap_threshold: int, trim_threshold: int) -> None:
        mallopt = _mallopt()
        if mallopt is not None:
            mallopt(self.MMAP_THRESHOLD, mmap_threshold)
            mallopt(self.TRIM_THRESHOLD, trim_threshold)


_RETAINED_MEMORY = _RetainedMemory()


@functools.cache
def _mallopt() -> Callable[[int, int], int] | None:
    return getattr(ctypes.CDLL(None), "mallopt", None)
