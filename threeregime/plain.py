"""Plain values, as JSON has them, of what an answer holds, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from threeregime.live import Evidence


def evidence(given: Mapping[str, Any]) -> Evidence:
    """What retrained copies showed, from its plain values."""
    test = given["test"]
    return Evidence(
        number(given["lmc"]),
        number(given["cka"]),
        tuple(tuple(number(error) for error in curve) for curve in given["curve"]),
        tuple(number(error) for error in given["train"]),
        None if test is None else tuple(number(error) for error in test),
    )


def number(value: float | None) -> float:
    """A number; None stands for NaN."""
    return math.nan if value is None else value


def without_nan(value: Any) -> Any:
    """Plain values with None for what is not a number: JSON knows no NaN."""
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
