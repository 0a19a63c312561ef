"""Where numbers come from: the facts that travel with every results table."""

from __future__ import annotations

import functools
import platform
import subprocess
import textwrap
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import pandas as pd
import torch

import threeregime
from threeregime.device import device_name
from threeregime.engine import Engine
from threeregime.sweep import Job, Place


def provenance(
    job: Job,
    place: Place,
    engine: Engine,
    protocols: dict[str, Any],
    seeds: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """All that is recorded with a fleet's tables, as plain values."""
    return {
        "experiment": place.experiment.name,
        "scale": place.experiment.scale,
        "fleet": job.fleet,
        "nets": job.nets,
        "protocols": protocols,
        "seeds": seeds,
        "commit": commit(),
        "versions": {
            "threeregime": threeregime.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "numpy": numpy.__version__,
        },
        "device": device_name(place.device),
        "engine": engine.name,
        "seconds": round(seconds, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


@functools.cache
def commit() -> str:
    """Git commit of the code, with "+" after it when files have changed since; or "unknown"."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
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
