"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from threeregime import catalogue, cluster

# As the engine runs on a CPU: one thread a fleet.
torch.set_num_threads(1)

SMOKE_FLEET = 8


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of figure_02 at smoke scale, whole and never interrupted; tests only read them."""
    root = tmp_path_factory.mktemp("smoke")
    experiment = catalogue.experiment("figure_02", "smoke")
    assert cluster.compute(experiment, root, device="cpu", workers=1, fleet=SMOKE_FLEET)
    return root
