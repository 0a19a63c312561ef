"""What all tests share."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.helpers import kernels
from threeregime.book import build_book, pdf
from threeregime.book.kernel_server import THREADS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.sweep import compute

# As the engine runs on a CPU: one thread a fleet, here and in the processes that tests start. The
# threads of several processes would wait for each other.
torch.set_num_threads(1)
for name in THREADS:
    os.environ.setdefault(name, "1")

# A busy machine is no defect.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SMOKE_FLEET = 8


# --- what runs where, and in which order


def pytest_configure() -> None:
    kernels.use_forked_kernels()


def pytest_unconfigure() -> None:
    kernels.close()


TOGETHER = {
    "tests/book/test_captions.py": "tests/book/test_book.py",  # share the built book
    "tests/book/test_links.py": "tests/book/test_book.py",
    "tests/book/test_reading.py": "tests/book/test_book.py",
    "tests/sweep/test_resume.py": "tests/sweep/test_cluster.py",  # start workers
}
"""A process takes a file of tests as a whole, and these with others."""


class ByFile(LoadFileScheduling):
    """Give files to the processes."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return TOGETHER.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile | None:
    return ByFile(config, log) if config.getoption("dist") == "loadfile" else None


# These train, or judge and replay as other notebooks do.
LONG_NOTEBOOKS = {f"{name}.ipynb" for name in ("advice", "controls", "failures", "found")}


def _mark(item: pytest.Item) -> None:
    """Mark a test by what it uses."""
    used = getattr(item, "fixturenames", ())
    if item.path.suffix == ".ipynb":
        item.add_marker("notebook")
    if item.path.name in LONG_NOTEBOOKS:
        item.add_marker("exhaustive")
    if "browser" in used:
        item.add_marker("browser")
    if "html" in used:
        item.add_marker("slow")


def pytest_collection_finish() -> None:
    """Write no more compiled modules: some tests count what is written."""
    sys.dont_write_bytecode = True


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests; put long files first, so that the processes end at about the same time."""
    for item in items:  # the hook of an item is not called outside of this folder
        _mark(item)
    kinds = ("cluster", "slow", "browser", "notebook")
    ranks: dict[str, int] = {}

    def file(item: pytest.Item) -> str:
        name = item.nodeid.partition("::")[0]
        return TOGETHER.get(name, name)

    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        rank = min((n for n, kind in enumerate(kinds) if kind in marks), default=len(kinds))
        ranks[file(item)] = min(rank, ranks.get(file(item), rank))
    items.sort(key=lambda item: (ranks[file(item)], "test_book" not in file(item)))


# --- shared by the workers


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Results of figure_02 at smoke scale, never interrupted, and the processor time they took."""

    def make(root: Path) -> float:
        experiment = catalogue.load_experiment("figure_02", "smoke")
        begin = time.process_time()
        assert compute.run_sweep(experiment, root, device="cpu", workers=1, fleet=SMOKE_FLEET)
        return time.process_time() - begin

    return _once(tmp_path_factory, "smoke", make)


def _once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Any]
) -> tuple[Path, Any]:
    """Fill a folder by the first of the test's workers that asks; return it and what that said."""
    base = factory.getbasetemp()
    root = (base.parent if base.name.startswith("popen-") else base) / name
    said = root.with_suffix(".json")
    with FileLock(root.with_suffix(".lock")):
        if not said.exists():
            said.write_text(json.dumps(make(root)))
    return root, json.loads(said.read_text())


@pytest.fixture(scope="session")
def smoke(smoke_run: tuple[Path, float]) -> Path:
    """Folder of those results; tests only read it."""
    return smoke_run[0]


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the book's pages, built from the notebooks as they are committed."""

    def make(root: Path) -> None:
        build_book(execute=False, out=root)

    return _once(tmp_path_factory, "book", make)[0] / "_build" / "html"


@pytest.fixture
def threads() -> Iterator[None]:
    """Set two threads for the test, and put their number back after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        pdf.find_chromium()
    except ThreeRegimeError as error:
        pytest.skip(str(error))
    with pdf.open_browser() as running:
        yield running
