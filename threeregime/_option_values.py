"""Values of command-line options, parsed from text."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from threeregime.errors import ThreeRegimeError


def split_pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE into name and value."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ThreeRegimeError(f"{text!r} is not of the form NAME=VALUE")
    return name.strip(), value.strip()


def parse_fields(pairs: list[str]) -> dict[str, Any]:
    """Parse SECTION.FIELD=VALUE, with a TOML value or a bare word, into values by path."""
    fields = {}
    for path, value in map(split_pair, pairs):
        if path.count(".") != 1:
            raise ThreeRegimeError(f"{path!r} is not of the form SECTION.FIELD, e.g. net.width")
        try:
            fields[path] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            fields[path] = value
    return fields


def parse_cells(text: str) -> dict[str, list[float]]:
    """Parse density=0.05,density=0.1,epochs=20 into values by axis."""
    cells: dict[str, list[float]] = {}
    for name, value in map(split_pair, filter(None, text.split(","))):
        try:
            cells.setdefault(name, []).append(float(value))
        except ValueError:
            raise ThreeRegimeError(f"{name} = {value!r} is not allowed: a number") from None
    return cells


def parse_seeds(text: str) -> tuple[int, int]:
    """Parse 3x3 into numbers of dense and retraining seeds."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match:
        raise ThreeRegimeError(f"seeds = {text!r} is not allowed: DENSExRETRAINING, e.g. 3x3")
    return int(match[1]), int(match[2])


def parse_duration(text: str) -> float:
    """Parse 90s, 9m or 2h into seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not match or not float(match[1]):
        raise ThreeRegimeError(f"time budget {text!r} is not allowed: e.g. 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
