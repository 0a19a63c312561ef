"""Every path that depends on where this package lies."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout; without one, the folder that the package is installed in."""
CHECKOUT = (ROOT / "pyproject.toml").is_file()
"""True for a checkout, False for an installed wheel."""

PROTOCOLS = PACKAGE / "experiments" / "protocols"
REFERENCE = PACKAGE / "results" / "reference"
WEB = PACKAGE / "figures" / "web"
KERNELS = PACKAGE / "fleet" / "lanes.cpp"
RESULTS = ROOT / "results" if CHECKOUT else PACKAGE / "shipped"
"""The shipped tables; a wheel carries them inside the package."""
RUNS = ROOT / "runs" if CHECKOUT else Path("runs")
"""The results that a user computes; without a checkout it is in the current folder."""
