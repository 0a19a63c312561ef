"""The user's cache: results that are computed once per machine, such as the fastest engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from threeregime._paths import cache_folder


def cached(kind: str, key: object, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a result from the cache, or compute it and store it.

    A file is written whole and never replaced: all processes use the first result. Where nothing
    can be stored (no space, no permission, no hard links) the result is computed each time.

    Args:
        kind: kind of the result; the file's name begins with it.
        key: all that the result depends on, as plain values.
        compute: function that returns the result as a JSON table.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    path = cache_folder() / f"{kind}-{digest}.json"
    stored = _read(path)
    if stored is not None:
        return stored
    result = compute()
    _write(path, result)
    return _read(path) or result


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return None


def _write(path: Path, result: dict[str, Any]) -> None:
    """Write a file, unless it exists or cannot be written."""
    draft = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(result, indent=1))
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
