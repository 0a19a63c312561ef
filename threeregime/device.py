"""What there is to run on: its name, its memory, and where things are kept for it."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


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


def cache_folder() -> Path:
    """Folder of what is made once for this machine: compiled kernels, outcomes of trials."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threeregime"


def kept(kind: str, facts: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found out on this machine before, or now, and then kept for the next process.

    Written whole, and never over another process's: all go by what the first one found. Where
    nothing can be kept (no room, no permission, no links between files) it is made anew each time.

    Args:
        kind: what it is; the beginning of the file's name.
        facts: all that it depends on, as plain values.
        make: finds it out: a JSON table.
    """
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = cache_folder() / f"{kind}-{digest}.json"
    known = _read(path)
    if known is not None:
        return known
    made = make()
    _keep(path, made)
    return _read(path) or made


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _keep(path: Path, made: dict[str, Any]) -> None:
    """Write a table whole, unless another process has been faster, or it cannot be."""
    own = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            own.write_text(json.dumps(made, indent=1))
            os.link(own, path)
        finally:
            own.unlink(missing_ok=True)
    except OSError:
        pass


def free_memory(device: str) -> int:
    """Bytes that can be had on the device now."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    import psutil
    from distributed.system import MEMORY_LIMIT  # of the container, where there is one

    return min(psutil.virtual_memory().available, MEMORY_LIMIT)


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
