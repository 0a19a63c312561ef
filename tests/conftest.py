"""What all tests share."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from tests.helpers import kernels
from threeregime.book import build, pdf
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.sweep import compute

# As the engine runs on a CPU: one thread a fleet.
torch.set_num_threads(1)

# A busy machine is no defect.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SMOKE_FLEET = 8


# --- what runs where, and in which order


def pytest_configure() -> None:
    kernels.use()


def pytest_unconfigure() -> None:
    kernels.SERVER_OF_THIS_PROCESS.close()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by what they use; give those that share something to the same worker.

    Long groups come first, so that the workers end at about the same time.
    """
    for item in items:
        used = getattr(item, "fixturenames", ())
        if item.path.suffix == ".ipynb":
            item.add_marker("notebook")
        if "browser" in used:
            item.add_marker("browser")
        if "html" in used:
            item.add_marker("slow")
        item.add_marker(pytest.mark.xdist_group(_group(item, used)))
    rank = {name: number for number, name in enumerate(("html", "cluster", "slow", "notebook"))}

    def order(item: pytest.Item) -> int:
        marks = {mark.name for mark in item.iter_markers()}
        group = item.get_closest_marker("xdist_group")
        names = {*marks, *(group.args if group else ())}
        return min((rank[name] for name in names & rank.keys()), default=len(rank))

    first: dict[str, int] = {}
    for item in items:
        name = _name(item)
        first[name] = min(first.get(name, len(rank)), order(item))
    items.sort(key=lambda item: first[_name(item)])


def _name(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark
    return str(mark.args[0])


def _group(item: pytest.Item, used: tuple[str, ...]) -> str:
    """Return the name of a test's group: of those that it shares an expensive fixture with."""
    if "html" in used:
        return "html"
    if item.get_closest_marker("cluster"):
        return "cluster"
    return str(item.path)


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
    factory: pytest.TempPathFactory, name: str, make: Callable[[Path], float]
) -> tuple[Path, float]:
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
    return build.build(execute=False, out=tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        pdf.chromium()
    except ThreeRegimeError as error:
        pytest.skip(str(error))
    with pdf.browsing() as running:
        yield running
