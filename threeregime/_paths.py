"""Every path that depends on where this package lies."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout; without one, the folder that the package is installed in."""

PROTOCOLS = PACKAGE / "protocols"
REFERENCE = PACKAGE / "reference"
WEB = PACKAGE / "web"
KERNELS = PACKAGE / "lanes.cpp"
RESULTS = ROOT / "results"
"""The shipped tables."""
