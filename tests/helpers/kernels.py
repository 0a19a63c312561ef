"""Kernels for the notebooks' tests, forked as those of the book are.

To start a kernel and import PyTorch and the like takes seconds, thirty times over. A forked kernel
is a process of its own all the same.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from typing import Any

import nbval.kernel
import nbval.plugin
from jupyter_client.manager import KernelManager

from threeregime.book.kernel_server import KernelServer

_STACK = contextlib.ExitStack()


@functools.cache
def server() -> KernelServer:
    """Return the server of this process, started with the first notebook."""
    return _STACK.enter_context(KernelServer())


class ForkingManager(KernelManager):
    """Starts kernels by forking."""

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        server().launch(self, kernel_cmd, **kw)


def use_forked_kernels() -> None:
    """Fork the kernels of the notebooks' tests, and leave them out of coverage."""
    if sys.platform == "linux":
        nbval.kernel.KernelManager = ForkingManager
    nbval.plugin.setup_coverage = nbval.plugin.teardown_coverage = lambda *_: None


def close() -> None:
    """End the server, and its kernels with it."""
    _STACK.close()
