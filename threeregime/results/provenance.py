"""Provenance: where numbers come from, as it is recorded with tables and as it is shown."""

from __future__ import annotations

import functools
import re
import subprocess
import textwrap
from collections.abc import Iterable
from typing import Any

import pandas as pd

from threeregime._paths import CHECKOUT, PACKAGE

NUMBERS = 2
"""The version of the numbers that this code makes.

Raise it by one when a change of the code changes any number in a table of results. Sweeps record
it with every fleet, so that tables made before the change are known to be stale. The golden table
(``tests/helpers/golden.py``) fails when numbers change and this does not.
"""

Record = dict[str, Any]
"""Provenance of one fleet, as plain values."""

COMMIT = re.compile(r"[0-9a-f]{7,40}\+?|unknown")
"""Form of what :func:`commit` returns. Pass a commit to git after ``--`` all the same."""
LONGEST_TEXT = 4096
"""Longest text of a record: an experiment of a file is named by its path."""
TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("experiment", "scale", "fleet", "commit", "device", "engine", "created"), str),
    **dict.fromkeys(("protocols", "seeds", "versions"), dict),
    "nets": int,
    "numbers": int,
    "seconds": (int, float),
}
"""Types of the entries of a record."""


def check_record(record: object) -> None:
    """Check the types of a record's entries, and that its texts are what a sweep writes.

    Records come with files of tables, which may be anybody's: nothing in them is trusted.

    Raises:
        ValueError: the first entry that is not allowed.
    """
    if not isinstance(record, dict):
        raise ValueError("it is no record of a fleet")
    for name, value in record.items():
        if not isinstance(value, TYPES.get(name, object)):
            raise ValueError(f"{name} is not allowed")
        if isinstance(value, str) and not (value.isprintable() and len(value) <= LONGEST_TEXT):
            raise ValueError(f"{name} is not a text of one line")
    for protocol in record.get("protocols", {}).values():
        if not isinstance(protocol, dict) or not all(isinstance(s, dict) for s in protocol.values()):
            raise ValueError("protocols is not allowed")
    if not COMMIT.fullmatch(record.get("commit", "unknown")):
        raise ValueError("commit is none")


@functools.cache
def commit() -> str:
    """Return the git commit of the code, with "+" where files have changed since, or "unknown"."""
    if not CHECKOUT:
        # An installed package may lie inside a repository of its user's.
        return "unknown"

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=PACKAGE, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD")[:12] + (
            "+" if git("status", "--porcelain", "--", ".") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def staleness(fleets: pd.DataFrame) -> str:
    """Return whether this code makes other numbers than the code that made some fleets.

    Args:
        fleets: their provenance, a row per fleet.

    Returns:
        "no"; "yes" with the oldest version of the numbers and today's; "unknown" where the version
        of a fleet was not recorded.
    """
    numbers = fleets["numbers"]
    if numbers.isna().any():
        return "unknown"
    oldest = int(numbers.min())
    return "no" if oldest == NUMBERS else f"yes (numbers {oldest}, now {NUMBERS})"


def provenance_facts(fleets: pd.DataFrame) -> dict[str, str]:
    """Return the provenance of fleets in words, with equal facts named once.

    Args:
        fleets: their provenance, a row per fleet.
    """
    return {
        "code": _commits(fleets["commit"]),
        "device": _distinct(fleets["device"]),
        "versions": _distinct(
            ", ".join(f"{name} {number}" for name, number in versions.items())
            for versions in fleets["versions"]
        ),
        "engine": _distinct(fleets["engine"]),
        "computed": f"{fleets['created'].min()} to {fleets['created'].max()}",
        "fleets": f"{len(fleets)}, {fleets['seconds'].sum() / 60:.0f} minutes of one core or GPU",
    }


def provenance_lines(fleets: pd.DataFrame) -> list[str]:
    """Return :func:`provenance_facts` as lines of text."""
    return [
        line
        for name, fact in provenance_facts(fleets).items()
        for line in textwrap.wrap(f"{name}: {fact}", 72, subsequent_indent="    ")
    ]


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def _commits(values: Iterable[str]) -> str:
    marked = {v if not v.endswith("+") else f"{v} (with changes since)" for v in values}
    return "commit " + _distinct(marked)


def duration(seconds: float) -> str:
    """Return a time in words, e.g. "3 min", "2.5 h" or "12 days"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    hours, days = seconds / 3600, seconds / 86_400
    if hours < 1.5:
        return f"{seconds / 60:.0f} min"
    if hours < 48:
        return f"{hours:.1f} h"
    return f"{days:.0f} days" if days < 730 else f"{days / 365:,.0f} years"
