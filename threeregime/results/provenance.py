"""Where numbers come from: the facts that travel with every results table."""

from __future__ import annotations

import functools
import subprocess
import textwrap
from collections.abc import Iterable

import pandas as pd

from threeregime._paths import PACKAGE


@functools.cache
def commit() -> str:
    """Git commit of the code, with "+" after it when files have changed since; or "unknown"."""

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


def facts(table: pd.DataFrame) -> dict[str, str]:
    """Provenance of fleets, one row each, in words; equal facts are said once."""
    return {
        "code": _commits(table["commit"]),
        "device": _distinct(table["device"]),
        "versions": _distinct(
            ", ".join(f"{name} {number}" for name, number in versions.items())
            for versions in table["versions"]
        ),
        "engine": _distinct(table["engine"]),
        "computed": f"{table['created'].min()} to {table['created'].max()}",
        "fleets": f"{len(table)}, {table['seconds'].sum() / 60:.0f} minutes of one core or GPU",
    }


def lines(table: pd.DataFrame) -> list[str]:
    """The same as lines of text."""
    return [
        line
        for name, fact in facts(table).items()
        for line in textwrap.wrap(f"{name}: {fact}", 72, subsequent_indent="    ")
    ]


def _distinct(values: Iterable[str]) -> str:
    return "; ".join(sorted(set(values)))


def _commits(values: Iterable[str]) -> str:
    marked = {v if not v.endswith("+") else f"{v} (with changes since)" for v in values}
    return "commit " + _distinct(marked)


def duration(span: float) -> str:
    """Seconds in words, e.g. "3 min", "2.5 h" or "12 days"."""
    if span < 60:
        return f"{max(1, round(span))} s"
    hours, days = span / 3600, span / 86_400
    if hours < 1.5:
        return f"{span / 60:.0f} min"
    if hours < 48:
        return f"{hours:.1f} h"
    return f"{days:.0f} days" if days < 730 else f"{days / 365:,.0f} years"
