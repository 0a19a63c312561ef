"""The library of kernels: compiled for this processor at first use, stored in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from threeregime._files import PARTIAL, is_private, make_private, remove_partial
from threeregime._paths import KERNELS, cache_folder
from threeregime.errors import ThreeRegimeError

# Generic tuning: that of GCC 12 for new AMD processors loads every operand of a multiply-add from
# memory again, at half the speed.
FLAGS = ("-O3", "-march=native", "-mtune=generic", "-ffp-contract=off", "-std=c++20")


COMPILER_SECONDS = 600.0
"""Time for a compiler, which takes less than one of a busy machine's minutes."""


def find_compiler() -> str | None:
    """Return the command of a C++ compiler, that in ``CXX`` first; None without one."""
    return os.environ.get("CXX", "").strip() or shutil.which("g++") or shutil.which("clang++")


def processor_field(*names: str) -> str:
    """Return the first line of /proc/cpuinfo with one of the names, else the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(names))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


@functools.cache
def load_library() -> ctypes.CDLL:
    """Load the kernels, compiled first if source, compiler or processor changed.

    Raises:
        ThreeRegimeError: there is no C++ compiler, it fails or takes too long, or the library
            cannot be stored in a folder of the user's own.
    """
    compiler = find_compiler()
    if not compiler:
        raise ThreeRegimeError("no C++ compiler (g++ or clang++)")
    try:
        library = compile_library(compiler)
        try:
            return ctypes.CDLL(str(library))
        except OSError:
            # Of another system, with which this one shares the home.
            library.unlink()
            return ctypes.CDLL(str(compile_library(compiler)))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = f"{compiler} could not compile {KERNELS.name}: {_reason(error)}"
        raise ThreeRegimeError(reason) from error


def _reason(error: Exception) -> str:
    """Return the first line of what a compiler says, else its exit status."""
    if isinstance(error, subprocess.CalledProcessError):
        return next(iter(error.stderr.splitlines()), f"exit status {error.returncode}")
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it takes longer than {error.timeout:.0f} s"
    return " ".join(str(error).split())


def compile_library(compiler: str, *options: str, source: Path | None = None) -> Path:
    """Compile a library into the user's cache, unless it is there; return the path.

    The name of the file has a digest of its content: a damaged one is compiled again. The folder
    is the user's own, and so must be the file, since loading it runs what is in it.

    Args:
        compiler: the command.
        options: further ones of the compiler.
        source: a C++ file; None: the kernels.

    Raises:
        OSError, ValueError, SubprocessError: they cannot be compiled here.
    """
    source = source or KERNELS
    # -march=native depends on the features of the processor.
    features = processor_field("flags", "Features")
    width = 64 if "avx512f" in features.split() else 32
    command = [*FLAGS, "-shared", "-fPIC", f"-DBYTES={width}", *options]
    build = f"{compiler} {command} {features}".encode()
    key = hashlib.sha256(source.read_bytes() + build).hexdigest()[:16]
    folder = make_private(cache_folder())
    for library in sorted(folder.glob(f"{source.stem}-{key}-*.so")):
        if is_private(library) and library.stem.endswith(f"-{_digest(library)}"):
            return library
        library.unlink(missing_ok=True)
    remove_partial(folder)
    print(
        f"threeregime: compiling {source.name} for this processor, once, under a minute",
        file=sys.stderr,
    )
    draft = folder / f".{key}.{uuid4().hex}{PARTIAL}"
    try:
        # The variable may hold options too, or a cache: CXX="ccache g++".
        _run_compiler([*shlex.split(compiler), *command, str(source), "-o", str(draft)])
        draft.chmod(0o700)
        library = folder / f"{source.stem}-{key}-{_digest(draft)}.so"
        os.replace(draft, library)  # complete even if several processes compile at once
    finally:
        draft.unlink(missing_ok=True)
    return library


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()[:16]


def _run_compiler(command: Sequence[str]) -> None:
    """Run a compiler; end it with all of its own processes if it takes too long."""
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        try:
            _, said = process.communicate(timeout=COMPILER_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr=said)
