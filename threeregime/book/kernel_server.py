"""Kernels for the notebooks: one server that has imported the libraries forks a kernel for each.

Forking is used on Linux alone; elsewhere each notebook gets a new Python process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from types import TracebackType
from typing import Any, cast

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.manager import KernelManager as JupyterManager
from jupyter_client.provisioning import LocalProvisioner

from threeregime._paths import ROOT

COMMAND = [sys.executable, "-m", "threeregime.book.kernel"]
# Two notebooks run at a time: each with one thread, unless the user says otherwise.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def environment() -> dict[str, str]:
    """Return the environment of started processes: this package first on the path, one thread."""
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**dict.fromkeys(THREADS, "1"), **os.environ, "PYTHONPATH": os.pathsep.join(path)}


class KernelManager(AsyncKernelManager):
    """Start kernels of the interpreter that runs us, whatever kernels the user has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """Specification of the kernel."""
        return KernelSpec(
            argv=[*COMMAND, "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
            env=environment(),
        )


class KernelServer:
    """A process that has imported the large libraries and forks kernels.

    Use as a context manager: when it ends, so do the server and all of its kernels.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [*COMMAND, "--server"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> KernelServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A kernel ends by itself within a second after its server.
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def fork(self, arguments: list[str], folder: str, variables: dict[str, str]) -> ForkedKernel:
        """Fork a kernel.

        Args:
            arguments: those of ipykernel.
            folder: working directory.
            variables: its environment.

        Raises:
            RuntimeError: the server has ended.
        """
        request = {"arguments": arguments, "folder": folder, "environment": variables}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            try:
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
                answer = self._process.stdout.readline()
            except (OSError, ValueError):
                answer = ""
        if not answer:
            raise RuntimeError("the server of the notebooks' kernels has ended")
        return ForkedKernel(int(answer))

    def manager(self) -> type[KernelManager]:
        """Return the kernel manager whose kernels are forked by this server."""
        server = self

        class ForkingManager(KernelManager):
            async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
                server.launch(self, kernel_cmd, **kw)

        return ForkingManager

    def launch(self, manager: JupyterManager, command: list[str], **options: Any) -> None:
        """Fork the kernel of a manager, in place of its ``_async_launch_kernel``.

        Args:
            manager: has a local provisioner.
            command: starts with a Python, ``-m`` and a module.
            options: of the process: ``env``, and ``cwd`` or None.
        """
        local = manager.provisioner
        assert isinstance(local, LocalProvisioner)
        folder, variables = options.get("cwd") or os.getcwd(), dict(options["env"])
        kernel = self.fork(command[len(COMMAND) :], str(folder), variables)
        local.process = cast(Any, kernel)
        local.pid = local.pgid = cast(Any, kernel.pid)
        manager._reconcile_connection_info(local.connection_info)


class ForkedKernel:
    """A kernel of the server, with the part of `subprocess.Popen` that jupyter_client uses."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        try:
            self._handle = os.pidfd_open(pid)
        except ProcessLookupError:
            self.returncode = 1

    def poll(self) -> int | None:
        """Return None while the process runs; its exit code is not known and taken as 0."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for the end of the process, ``timeout`` seconds at most."""
        return self._wait(timeout)

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._handle, number)

    def kill(self) -> None:
        """End the process at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask the process to end."""
        self.send_signal(signal.SIGTERM)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            end = select.poll()
            end.register(self._handle, select.POLLIN)
            if end.poll(None if timeout is None else 1000 * timeout):
                os.close(self._handle)
                self.returncode = 0
        return self.returncode
