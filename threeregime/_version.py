"""The version of this package, as commands print it and tables record it."""

from __future__ import annotations

import functools
import re
from importlib import metadata

from threeregime._paths import CHECKOUT, ROOT

PROJECT_VERSION = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


@functools.cache
def version() -> str:
    """Return the version of this package, or "unknown".

    A checkout that runs without being installed, as by ``PYTHONPATH``, has it in its
    ``pyproject.toml``.
    """
    try:
        return metadata.version("threeregime")
    except metadata.PackageNotFoundError:
        pass
    try:
        text = (ROOT / "pyproject.toml").read_text("utf-8") if CHECKOUT else ""
    except OSError:
        text = ""
    found = PROJECT_VERSION.search(text)
    return found[1] if found else "unknown"
