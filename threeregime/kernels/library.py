"""The library of kernels: compiled for this processor at first use, stored in the user's cache."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from threeregime._paths import KERNELS, cache_folder
from threeregime.errors import ThreeRegimeError

# Generic tuning: that of GCC 12 for new AMD processors loads every operand of a multiply-add from
# memory again, at half the speed.
FLAGS = ("-O3", "-march=native", "-mtune=generic", "-ffp-contract=off", "-std=c++20")


def find_compiler() -> str | None:
    """Return the command of a C++ compiler, that in ``CXX`` first; None without one."""
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")


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
        ThreeRegimeError: there is no C++ compiler, or it fails.
    """
    compiler = find_compiler()
    if not compiler:
        raise ThreeRegimeError("no C++ compiler (g++ or clang++)")
    try:
        return ctypes.CDLL(str(compile_library(compiler)))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"{compiler} could not compile {KERNELS.name}: {_reason(error)}"
        raise ThreeRegimeError(reason) from error


def _reason(error: OSError | subprocess.CalledProcessError) -> str:
    """Return the first line of what a compiler says, else its exit status."""
    if isinstance(error, OSError):
        return str(error)
    return next(iter(error.stderr.splitlines()), f"exit status {error.returncode}")


def compile_library(compiler: str, *options: str, source: Path | None = None) -> Path:
    """Compile a library into the user's cache, unless it is there; return the path.

    Args:
        compiler: the command.
        options: further ones of the compiler.
        source: a C++ file; None: the kernels.

    Raises:
        OSError, CalledProcessError: they cannot be compiled here.
    """
    source = source or KERNELS
    # -march=native depends on the features of the processor.
    features = processor_field("flags", "Features")
    width = 64 if "avx512f" in features.split() else 32
    command = [*FLAGS, "-shared", "-fPIC", f"-DBYTES={width}", *options]
    build = f"{compiler} {command} {features}".encode()
    key = hashlib.sha256(source.read_bytes() + build).hexdigest()[:16]
    library = cache_folder() / f"{source.stem}-{key}.so"
    if not library.exists():
        print(
            f"threeregime: compiling {source.name} for this processor, once, under a minute",
            file=sys.stderr,
        )
        library.parent.mkdir(parents=True, exist_ok=True)
        draft = library.with_suffix(f".{os.getpid()}")
        # The variable may hold options too, or a cache: CXX="ccache g++".
        command = [*shlex.split(compiler), *command, str(source), "-o", str(draft)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.replace(draft, library)  # complete even if several processes compile at once
    return library
