"""Run all notebooks of the project: those alone whose inputs changed since their last run.

The inputs of a notebook are its code cells with their outputs, the Python version, the pinned
libraries, and every file and folder of the project that its kernel read, modules included (see
`threeregime.book.kernel`). Their digests are kept in ``book/_build/executed.json``.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from threeregime._paths import PACKAGE, ROOT
from threeregime.book import storage
from threeregime.book.kernel_server import KernelManager, KernelServer
from threeregime.book.notebooks import execute, notebook_paths
from threeregime.errors import ThreeRegimeError

BUILD = Path("book") / "_build"
WORKERS = 2
# Notebooks that train; started first where no earlier run says how long a notebook takes.
SLOWEST = ("landscapes", "controls", "load_and_temperature", "figure_16", "figure_02", "claims")
# How this package itself runs and stores a notebook.
MACHINERY = ("kernel.py", "kernel_server.py", "notebooks.py", "storage.py")
EVERYTHING = "**"
HEAD = "git HEAD"
CODE = "code"
ENVIRONMENT = "environment"
RESULTS = "results/**"


@dataclass(frozen=True)
class Run:
    """The last successful run of a notebook.

    Attributes:
        seconds: how long it took.
        inputs: digests of its inputs; keys are those of :class:`Digests`.
    """

    seconds: float
    inputs: dict[str, str]


class Digests:
    """Digests (hexadecimal SHA-256) of inputs, each computed once.

    A key is the path of a file below the project's folder, or of a folder with a slash at the end
    (the names of its entries), or one of the constants of this module.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[str, str] = {}

    def of(self, key: str) -> str:
        """Return the digest of an input; empty where the file or folder does not exist."""
        if key not in self._known:
            self._known[key] = self._compute(key)
        return self._known[key]

    def key(self, path: Path) -> str:
        """Return the key of a file or folder."""
        name = str(path.relative_to(self.root) if path.is_relative_to(self.root) else path)
        return f"{name}/" if path.is_dir() else name

    def is_input(self, path: Path) -> bool:
        """Return whether a path belongs to the project or this package and is not built by it."""
        for folder in (self.root, ROOT):
            if path.is_relative_to(folder):
                parts = path.relative_to(folder).parts
                return not any(part.startswith(".") or part == "_build" for part in parts)
        return False

    def _compute(self, key: str) -> str:
        path = self.root / key
        if key == HEAD:
            return _git_head(self.root)
        if key == ENVIRONMENT:
            parts = [sys.version.encode()]
            files = [PACKAGE / "book" / name for name in MACHINERY]
            files += [self.root / "requirements.lock"]
            parts += [file.read_bytes() for file in files if file.exists()]
        elif key == RESULTS:
            parts = [str(p).encode() for p in _walk([self.root / "results"])]
        elif key == EVERYTHING:
            folders = {PACKAGE, ROOT / "results", self.root / "threeregime", self.root / "results"}
            parts = [str(p).encode() + p.read_bytes() for p in _walk(sorted(folders))]
        elif key.endswith("/"):
            parts = [name.encode() for name in sorted(os.listdir(path))] if path.is_dir() else []
            parts = [part for part in parts if part != b"__pycache__"]
        else:
            parts = [path.read_bytes()] if path.is_file() else []
        return hashlib.sha256(b"\0".join(parts)).hexdigest() if parts else ""


def _walk(folders: Iterable[Path]) -> list[Path]:
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path for path in files if "__pycache__" not in path.parts]


def _git_head(root: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


class Runs:
    """The runs of a project's notebooks, by name, kept in ``executed.json``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / BUILD / "executed.json"
        self._runs = self._read()

    def _read(self) -> dict[str, Run]:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            return {name: Run(**run) for name, run in stored.items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def outdated(self) -> list[Path]:
        """Return the notebooks to run, the longest first."""
        digests = Digests(self.root)
        paths = notebook_paths(self.root)
        outdated = [path for path in paths.values() if not self._is_current(path, digests)]
        return sorted(outdated, key=self._order)

    def add(self, name: str, run: Run) -> None:
        """Keep a run, on disk as well."""
        self._runs[name] = run
        self._write()

    def forget(self, name: str) -> None:
        """Have a notebook run again."""
        if self._runs.pop(name, None):
            self._write()

    def _is_current(self, path: Path, digests: Digests) -> bool:
        run = self._runs.get(path.stem)
        if run is None or run.inputs.get(CODE) != storage.code_digest(path.read_text("utf-8")):
            return False
        return all(digests.of(key) == value for key, value in run.inputs.items() if key != CODE)

    def _order(self, path: Path) -> tuple[float, int, str]:
        name = path.stem
        seconds = self._runs[name].seconds if name in self._runs else 0.0
        return -seconds, SLOWEST.index(name) if name in SLOWEST else len(SLOWEST), name

    def _write(self) -> None:
        content = {name: asdict(run) for name, run in sorted(self._runs.items())}
        write_atomically(self.path, json.dumps(content, indent=1).encode())


def run_all(
    root: Path = ROOT,
    report: Callable[[str], Any] | None = None,
    server: KernelServer | None = None,
) -> list[str]:
    """Run the notebooks whose inputs changed, two at a time, and store their outputs in place.

    Args:
        root: folder of the project.
        report: called with a line of text when a notebook has ended; prints by default.
        server: forks the kernels; by default one is started and ended.

    Returns:
        Names of the notebooks that ran.

    Raises:
        ThreeRegimeError: a notebook failed. Its stored outputs stay as they were, and it runs again
            the next time; the other notebooks have run.
    """
    report = report or functools.partial(print, flush=True)
    start = time.time()
    runs = Runs(root)
    paths = runs.outdated()
    if not paths:
        return []
    report(f"{len(paths)} notebooks to run, {WORKERS} at a time")
    failures: list[ThreeRegimeError] = []
    with _executor(server) as (pool, manager):
        running = {pool.submit(_run, path, root, manager, start): path.stem for path in paths}
        for ended, future in enumerate(as_completed(running), 1):
            line = f"[{ended:{len(str(len(paths)))}}/{len(paths)}] {running[future]}"
            try:
                runs.add(running[future], future.result())
                report(f"{line}  {future.result().seconds:.1f} s")
            except ThreeRegimeError as error:
                runs.forget(running[future])
                failures.append(error)
                report(f"{line}  failed")
    if failures:
        more = f" (and {len(failures) - 1} more failed)" if len(failures) > 1 else ""
        raise ThreeRegimeError(f"{failures[0]}{more}") from failures[0]
    return sorted(path.stem for path in paths)


@contextmanager
def _executor(
    server: KernelServer | None,
) -> Iterator[tuple[ThreadPoolExecutor, type[KernelManager]]]:
    """Threads that run notebooks, and the manager of their kernels; an interrupt ends them all."""
    starts = server is None and sys.platform == "linux"
    with (
        ThreadPoolExecutor(WORKERS) as pool,
        KernelServer() if starts else nullcontext(server) as forking,
    ):
        try:
            yield pool, forking.manager() if forking else KernelManager
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(path: Path, root: Path, manager: type[KernelManager], start: float) -> Run:
    """Run a notebook and store it in place."""
    begin = time.monotonic()
    source = path.read_bytes()
    scratch = root / BUILD / "executed" / path.name
    record = scratch.with_suffix(".inputs")
    record.unlink(missing_ok=True)
    execute(path, scratch, {}, manager, [f"--inputs={record}"])
    stored = storage.normalize(scratch.read_text(encoding="utf-8"))
    inputs = {CODE: storage.code_digest(stored), **_inputs(record, Digests(root), start)}
    # A notebook that was edited meanwhile stays as it is; one that did not change keeps its date.
    if path.read_bytes() == source != stored.encode():
        write_atomically(path, stored.encode())
    return Run(round(time.monotonic() - begin, 1), inputs)


def _inputs(record: Path, digests: Digests, start: float) -> dict[str, str]:
    """Return the digests of what a kernel has read.

    Args:
        record: file that the kernel wrote; without it, the notebook depends on everything.
        digests: of the files as they are now.
        start: when the build started. What changed since then gets a digest that nothing has.
    """
    used = {"files": [], "folders": [], "programs": ["unknown"]}
    if record.exists():
        used = json.loads(record.read_text(encoding="utf-8"))
    keys = {ENVIRONMENT}
    changed = set()
    for path in filter(digests.is_input, map(Path, [*used["files"], *used["folders"]])):
        keys.add(key := digests.key(path))
        if not path.exists() or path.stat().st_mtime > start:
            changed.add(key)
    if any("/results/" in path for path in used["files"]):
        # Whether a table exists may be asked without reading anything.
        keys.add(RESULTS)
    if used["programs"]:
        # Other processes leave no record.
        keys.add(EVERYTHING)
    if "git" in used["programs"]:
        keys.add(HEAD)
    return {key: "changed" if key in changed else digests.of(key) for key in sorted(keys)}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers, and an interrupt, leave the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
