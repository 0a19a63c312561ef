"""The user's cache: results that are computed once per machine, such as the fastest engine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from threeregime._files import PARTIAL, make_private
from threeregime._paths import cache_folder


def cached(
    kind: str,
    key: object,
    compute: Callable[[], dict[str, Any]],
    is_valid: Callable[[dict[str, Any]], bool] = bool,
) -> dict[str, Any]:
    """Return a result from the cache, or compute it and store it.

    A file is written whole and never replaced: all processes use the first result. Only one that is
    damaged, or of another shape, is. Where nothing can be stored (no space, no permission, no hard
    links) the result is computed each time.

    Args:
        kind: kind of the result; the file's name begins with it.
        key: all that the result depends on, as plain values.
        compute: function that returns the result as a JSON table.
        is_valid: whether a stored table is of the shape of such a result.
    """
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
    path = cache_folder() / f"{kind}-{digest}.json"
    stored = _read(path)
    if stored is not None and is_valid(stored):
        return stored
    result = compute()
    if stored is not None:
        with contextlib.suppress(OSError):
            path.unlink()
    _write(path, result)
    stored = _read(path)
    return stored if stored is not None and is_valid(stored) else result


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, result: dict[str, Any]) -> None:
    """Write a file, unless it exists or cannot be written."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}{PARTIAL}")
    with contextlib.suppress(OSError):
        make_private(path.parent)
        try:
            draft.write_text(json.dumps(result, indent=1), encoding="utf-8")
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
