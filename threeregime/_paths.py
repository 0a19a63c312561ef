"""Every path that depends on where this package lies."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
ROOT = PACKAGE.parent
"""The checkout; without one, the folder that the package is installed in."""
CHECKOUT = (ROOT / "pyproject.toml").is_file()
"""True for a checkout, False for an installed wheel."""

PROTOCOLS = PACKAGE / "experiments" / "protocols"
REFERENCE = PACKAGE / "results" / "reference"
WEB = PACKAGE / "figures" / "web"
KERNELS = PACKAGE / "kernels" / "planned.cpp"
REGISTERED = PACKAGE / "claims" / "registered.toml"
DIGITS = PACKAGE / "data" / "digits.npz"
RESULTS = ROOT / "results" if CHECKOUT else PACKAGE / "shipped"
"""The shipped tables; a wheel carries them inside the package."""
RUNS = Path(os.environ.get("THREEREGIME_RUNS") or (ROOT / "runs" if CHECKOUT else "runs"))
"""The results that a user computes; without a checkout it is in the current folder."""


def cache_folder() -> Path:
    """Return the user's folder of compiled kernels and cached results; it need not exist.

    Without a home it is below the folder of temporary files.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(given):  # others are to be ignored: XDG Base Directory Specification
        return Path(given) / "threeregime"
    try:
        return Path.home() / ".cache" / "threeregime"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"threeregime-{os.getuid()}"
