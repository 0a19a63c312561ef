"""Every path that depends on where this package lies."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout; without one, the folder that the package is installed in."""

PROTOCOLS = PACKAGE / "experiments" / "protocols"
REFERENCE = PACKAGE / "results" / "reference"
WEB = PACKAGE / "figures" / "web"
KERNELS = PACKAGE / "fleet" / "lanes.cpp"
RESULTS = ROOT / "results"
"""The shipped tables."""
