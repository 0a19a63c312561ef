"""Convolution of M nets at once on a CPU, one net in each lane of the vector registers.

The kernels in ``lanes.cpp`` are compiled for this processor at first use and stored in the user's
cache. Results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from threeregime._paths import KERNELS
from threeregime.fleet.cache import cache_folder
from threeregime.fleet.device import cpu_info

# Generic tuning: that of GCC 12 for new AMD processors loads every operand of a multiply-add from
# memory again, at half the speed.
FLAGS = ("-O3", "-march=native", "-mtune=generic", "-std=c++20", "-shared", "-fPIC", "-fopenmp")


@functools.cache
def available() -> bool:
    """Return whether the kernels can be used; compile them first, or print why they cannot."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        _print("no C++ compiler (g++ or clang++), so fleets run uncompiled at half the speed")
        return False
    try:
        library = _compile(compiler)
        torch.ops.load_library(str(library))
    except (OSError, subprocess.CalledProcessError) as error:
        failure = f"{compiler} could not compile {KERNELS.name}"
        _print(f"{failure}, so fleets run at half the speed: {error}")
        return False
    _register()
    return True


def _print(line: str) -> None:
    print(f"threeregime: {line}", file=sys.stderr)


def _compile(compiler: str) -> Path:
    """Return the compiled library; compile it if source, PyTorch or processor changed."""
    # -march=native depends on the features of the processor.
    processor = cpu_info("flags", "Features")
    build = f"{torch.__version__} {compiler} {FLAGS} {processor}".encode()
    key = hashlib.sha256(KERNELS.read_bytes() + build).hexdigest()[:16]
    library = cache_folder() / f"lanes-{key}.so"
    if not library.exists():
        _print("compiling the fleet's convolution for this processor, once, under a minute")
        library.parent.mkdir(parents=True, exist_ok=True)
        root = Path(torch.__file__).parent
        draft = library.with_suffix(f".{os.getpid()}")
        command = [
            compiler,
            *FLAGS,
            f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
            *(f"-I{root / 'include' / part}" for part in ("", "torch/csrc/api/include")),
            str(KERNELS),
            *("-o", str(draft), f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"),
        ]
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.replace(draft, library)  # complete even if several processes compile at once
    return library


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Return the convolution of each net's activations with its own weights.

    Args:
        x: activations [batch, channels * M, h, w], channels last in memory, members innermost.
        weight: [out, channels, k, k, M].
        stride: stride of both dimensions.
        padding: zero padding on all sides.

    Returns:
        [batch, out * M, h', w'] in the same layout; float32 or float64.
    """
    return torch.ops.threeregime.conv2d(x, weight, stride, padding)


def _register() -> None:
    """Register shapes and gradients of the operators with the compiler and autograd."""
    ops = torch.ops.threeregime

    def empty(x: Tensor, shape: Sequence[int]) -> Tensor:
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)

    def conv_shape(x: Tensor, w: Tensor, stride: int, padding: int) -> Tensor:
        h, v = ((n + 2 * padding - w.shape[2]) // stride + 1 for n in x.shape[2:])
        return empty(x, (x.shape[0], w.shape[0] * w.shape[4], h, v))

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, w, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, w)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (x, w), step = ctx.saved_tensors, (ctx.stride, ctx.padding)
        needs_x, needs_w = ctx.needs_input_grad[:2]
        grad_x = ops.grad_input(grad, w, x.shape, *step) if needs_x else None
        grad_w = ops.grad_weight(grad, x, w.shape, *step) if needs_w else None
        return grad_x, grad_w, None, None

    fake = torch.library.register_fake
    fake("threeregime::conv2d", conv_shape)
    fake("threeregime::grad_input", lambda grad, w, shape, stride, padding: empty(grad, shape))
    fake("threeregime::grad_weight", lambda grad, x, shape, stride, padding: x.new_empty(shape))
    torch.library.register_autograd("threeregime::conv2d", backward, setup_context=setup)
