"""The process of a notebook's kernel, which records the files that the notebook depends on.

``python -m threeregime.book.kernel --inputs=PATH ARGUMENTS`` runs one kernel with the arguments of
ipykernel. ``python -m threeregime.book.kernel --server`` imports the large libraries once and forks
such a kernel for each request (see `threeregime.book.kernel_server`).

Modules of this package are never imported before the fork: those that are loaded when the notebook
ends are those that it imported.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import functools
import gc
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# What most notebooks import. PyTorch alone takes seconds.
LIBRARIES = (
    "ipykernel.kernelapp",
    "ipykernel.ipkernel",
    "ipywidgets",
    "anywidget",
    "matplotlib.backends.backend_agg",
    "matplotlib.pyplot",
    "myst_nb",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
)
# `platform.processor` asks it.
PROGRAMS_WITHOUT_INPUTS = {"uname"}


class InputRecorder:
    """Record the files, folders and programs that this process uses, through an audit hook.

    Attributes:
        files: files opened for reading.
        written: files opened for writing.
        folders: folders whose entries were listed.
        programs: names of programs started; ``fork`` for a fork of this process.
    """

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.written: set[str] = set()
        self.folders: set[str] = set()
        self.programs: set[str] = set()

    def install(self) -> None:
        """Record from now on. An audit hook stays until the process ends."""
        sys.addaudithook(self._record)

    def write(self, path: Path) -> None:
        """Write the record as JSON: sorted lists ``files``, ``folders``, ``programs``.

        Files are those read and not written, and the source of every loaded module; files of the
        Python installation are left out, except those of this package.
        """
        modules = {name: getattr(m, "__file__", None) for name, m in list(sys.modules.items())}
        own = {
            file for name, file in modules.items() if file and name.partition(".")[0] == __package__
        }
        read = (self.files | {file for file in modules.values() if file}) - self.written
        record = {
            "files": sorted({*filter(_is_input, read), *own}),
            "folders": sorted(filter(_is_input, self.folders)),
            "programs": sorted((self.programs | _started_workers()) - PROGRAMS_WITHOUT_INPUTS),
        }
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(path)

    def _record(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(mode, str) and set(mode) & set("wxa+")
            writes = writes or (not mode and flags & (os.O_WRONLY | os.O_RDWR))
            self._add(self.written if writes else self.files, path)
        elif event in ("os.scandir", "os.listdir") and not _is_import():
            self._add(self.folders, arguments[0] if arguments[0] is not None else ".")
        elif event == "subprocess.Popen":
            self.programs.add(os.path.basename(os.fsdecode(arguments[0] or arguments[1][0])))
        elif event in ("os.fork", "os.posix_spawn", "os.exec", "os.system"):
            self.programs.add(event.partition(".")[2])

    @staticmethod
    def _add(known: set[str], path: Any) -> None:
        if isinstance(path, (str, bytes, os.PathLike)):
            known.add(os.path.abspath(os.fsdecode(path)))


def _is_import() -> bool:
    """Return whether it is the import system that lists a folder; loaded modules are recorded."""
    return "importlib" in sys._getframe(2).f_code.co_filename


def _is_input(path: str) -> bool:
    prefixes = {sys.prefix, sys.base_prefix, "/dev", "/proc", "/sys"}
    installed = any(path.startswith(os.path.join(prefix, "")) for prefix in prefixes)
    return not installed and "__pycache__" not in path and os.path.exists(path)


def _started_workers() -> set[str]:
    """Return the name of multiprocessing if it started processes: it raises no audit event."""
    ways = ("popen_spawn_posix", "popen_forkserver", "popen_fork")
    started = any(f"multiprocessing.{way}" in sys.modules for way in ways)
    return {"multiprocessing"} if started else set()


def audit_parquet() -> None:
    """Raise the audit event of opening a file for pyarrow, which opens its files in C++."""
    from pyarrow.parquet import core

    for reader in (core.ParquetFile, core.ParquetDataset):
        reader.__init__ = _audited(reader.__init__)


def _audited(method: Any) -> Any:
    @functools.wraps(method)
    def init(self: Any, source: Any, *args: Any, **kwargs: Any) -> None:
        for path in source if isinstance(source, list) else [source]:
            sys.audit("open", path, "rb", 0)
        method(self, source, *args, **kwargs)

    return init


def run_kernel(arguments: list[str], recorder: InputRecorder) -> None:
    """Run a kernel until it is shut down, then write the record of its inputs.

    Args:
        arguments: those of ipykernel, and ``--inputs=PATH``, the file to write the record to.
        recorder: installed before anything of this package was imported.
    """
    from ipykernel.kernelapp import IPKernelApp

    option = "--inputs="
    outputs = [argument.removeprefix(option) for argument in arguments if option in argument]
    app = IPKernelApp.instance()
    app.initialize([argument for argument in arguments if option not in argument])
    try:
        app.start()
    finally:
        for path in outputs:
            recorder.write(Path(path))


def import_libraries() -> None:
    """Import the libraries as they would be imported in a kernel; those missing are left out."""
    # pandas looks for IPython's global function to choose how wide tables may be.
    vars(builtins)["get_ipython"] = lambda: SimpleNamespace(kernel=None)
    try:
        for name in LIBRARIES:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    finally:
        del vars(builtins)["get_ipython"]


def serve(recorder: InputRecorder) -> None:
    """Fork a kernel for each request on the standard input, until that is closed.

    A request is a line of JSON: ``arguments``, ``folder`` and ``environment`` of the kernel. The
    answer is a line with its process ID.
    """
    # ipykernel and Matplotlib read these when they are imported.
    os.environ["JPY_PARENT_PID"] = str(os.getpid())
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    import_libraries()
    audit_parquet()
    gc.freeze()  # no collection in a kernel touches what is shared
    # Kernels that end leave no zombies behind.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in iter(sys.stdin.readline, ""):
        sys.stdout.flush()
        process = os.fork()
        if not process:
            request = json.loads(line)
            _leave_server(request)
            recorder.programs.clear()
            run_kernel(request["arguments"], recorder)
            # Taking the libraries down would copy all of the memory shared with the server.
            atexit._run_exitfuncs()
            os._exit(0)
        print(process, flush=True)


def _leave_server(request: dict[str, Any]) -> None:
    """Turn a fork of the server into a process of its own."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The server's standard input and output carry requests and answers.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    os.chdir(request["folder"])


def main(arguments: list[str]) -> None:
    """Run the server or one kernel."""
    # As in ipykernel: IPython adds the working directory where it belongs.
    sys.path.remove(os.getcwd())
    recorder = InputRecorder()
    recorder.install()
    if arguments == ["--server"]:
        serve(recorder)
    else:
        audit_parquet()
        run_kernel(arguments, recorder)


if __name__ == "__main__":
    main(sys.argv[1:])
