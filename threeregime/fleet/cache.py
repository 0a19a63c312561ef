"""The user's cache: what is found out once for this machine, such as the fastest engine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Folder of what is made once for this machine: compiled kernels, outcomes of trials."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "threeregime"


def cached(kind: str, facts: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found out on this machine before, or now, and then kept for the next process.

    Written whole, and never over another process's: all go by what the first one found. Where
    nothing can be kept (no room, no permission, no links between files) it is made anew each time.

    Args:
        kind: what it is; the beginning of the file's name.
        facts: all that it depends on, as plain values.
        make: finds it out: a JSON table.
    """
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
    path = cache_folder() / f"{kind}-{digest}.json"
    known = _read(path)
    if known is not None:
        return known
    made = make()
    _keep(path, made)
    return _read(path) or made


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _keep(path: Path, made: dict[str, Any]) -> None:
    """Write a table whole, unless another process has been faster, or it cannot be."""
    own = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            own.write_text(json.dumps(made, indent=1))
            os.link(own, path)
        finally:
            own.unlink(missing_ok=True)
    except OSError:
        pass
