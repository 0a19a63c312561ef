"""What all tests of advice share."""

from __future__ import annotations

import pytest

from threeregime.advice import advisor


@pytest.fixture(autouse=True)
def without_known_nets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitting the known nets takes seconds: most tests go without."""
    monkeypatch.setattr(advisor, "load_calibration", lambda held_out: None)
