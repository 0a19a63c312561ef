"""What all tests of advice share."""

from __future__ import annotations

import pytest

from threeregime.advice import advisor


@pytest.fixture(autouse=True)
def without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the shipped tables takes seconds: most tests go without."""
    monkeypatch.setattr(advisor, "load_calibration", lambda steps: None)
