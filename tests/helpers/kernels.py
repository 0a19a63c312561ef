"""Kernels for the notebooks' tests, forked from a process that has imported the libraries.

Starting a kernel and importing PyTorch and the like takes seconds, thirty times over. A forked
kernel is a process of its own all the same, with nothing in its namespace.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import nbval.kernel
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import local_provisioner

# Reads a kernel's command, folder and environment from each line, and answers with its process.
# ipywidgets is not imported: it wants a kernel when it is.
SERVER = """
import json, os, signal, sys
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
from ipykernel import kernelapp
import threeregime.analysis.study, threeregime.claims.verdicts, threeregime.figures.diagrams
import sklearn.metrics

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    wanted = json.loads(line)
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        sys.stdin = open(os.devnull)
        os.environ.update(wanted["env"])
        os.chdir(wanted["cwd"])
        parent = f"--IPKernelApp.parent_handle={os.getppid()}"  # a kernel ends with it
        kernelapp.launch_new_instance([*wanted["argv"], parent])
        os._exit(0)
    os.setpgid(pid, pid)  # before its manager asks for its group, in order to signal it
    print(pid, flush=True)
"""


class Forked:
    """A kernel's process, as far as its manager uses one."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        """Return None while the process runs."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return 0
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended."""
        while self.poll() is None:
            time.sleep(0.01)
        return 0

    def send_signal(self, number: int) -> None:
        """Send a signal, if the process is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process."""
        self.send_signal(signal.SIGKILL)

    terminate = kill


class Server:
    """The process that kernels are forked from; it is started with the first one."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def launch(self, command: list[str], **options: Any) -> Forked:
        """Start a kernel as ``jupyter_client.launch_kernel`` does."""
        if self.process is None:
            pipe = subprocess.PIPE
            words = [sys.executable, "-c", SERVER]
            self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        assert self.process.stdin
        assert self.process.stdout
        wanted = {
            "argv": command[command.index("-f") :],
            "cwd": options["cwd"] or os.getcwd(),
            "env": dict(options.get("env") or os.environ),
        }
        self.process.stdin.write(json.dumps(wanted) + "\n")
        self.process.stdin.flush()
        return Forked(int(self.process.stdout.readline()))

    def close(self) -> None:
        """End the process; kernels end with it."""
        if self.process is not None:
            self.process.communicate()


SERVER_OF_THIS_PROCESS = Server()


class ForkingManager(KernelManager):
    """Starts kernels by forking."""

    def start_kernel(self, **options: Any) -> Any:
        """Start a kernel."""
        launch = SERVER_OF_THIS_PROCESS.launch
        with mock.patch.object(local_provisioner, "launch_kernel", launch):
            return super().start_kernel(**options)


def use() -> None:
    """Have the notebooks' tests use such kernels, and leave coverage out of them."""
    nbval.kernel.KernelManager = ForkingManager
    nbval.plugin.setup_coverage = nbval.plugin.teardown_coverage = lambda *_: None
