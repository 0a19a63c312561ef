"""What all tests share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from threeregime.book import build_book, pdf
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.sweep import compute

# As the engine runs on a CPU: one thread a fleet.
torch.set_num_threads(1)

# A busy machine is no defect.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

SMOKE_FLEET = 8


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Results of figure_02 at smoke scale, never interrupted, and the processor time they took."""
    root = tmp_path_factory.mktemp("smoke")
    experiment = catalogue.load_experiment("figure_02", "smoke")
    begin = time.process_time()
    assert compute.run_sweep(experiment, root, device="cpu", workers=1, fleet=SMOKE_FLEET)
    return root, time.process_time() - begin


@pytest.fixture(scope="session")
def smoke(smoke_run: tuple[Path, float]) -> Path:
    """Folder of those results; tests only read it."""
    return smoke_run[0]


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the book's pages, built from the notebooks as they are committed."""
    return build_book(execute=False, out=tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        pdf.find_chromium()
    except ThreeRegimeError as error:
        pytest.skip(str(error))
    with pdf.open_browser() as running:
        yield running
