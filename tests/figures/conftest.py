"""The explorer of all shipped diagrams, shared by its tests."""

from __future__ import annotations

import pytest

from threeregime.analysis.study import Study
from threeregime.figures import explorer


@pytest.fixture(scope="session")
def studies() -> list[Study]:
    """All that is shipped at the scales ``clutter`` and ``mini``, Figure 2 first."""
    studies = explorer.shipped_studies(scales=("clutter", "mini"))
    studies.sort(key=lambda s: (s.experiment.name, s.experiment.scale) != ("figure_02", "clutter"))
    return studies


@pytest.fixture(scope="session")
def box(studies: list[Study]) -> explorer.Explorer:
    return explorer.make_explorer(studies, load=0.08)
