"""Parameters of tests, of which every run tries some."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import pytest


def with_examples(values: Sequence[Any], examples: Container[Any]) -> list[Any]:
    """Return parameters, all marked as exhaustive but the examples.

    Args:
        values: a value each, or a tuple of values.
        examples: the values, or first values of tuples, that every run tries.
    """
    cases = [value if isinstance(value, tuple) else (value,) for value in values]
    marked = pytest.mark.exhaustive
    return [pytest.param(*case, marks=[] if case[0] in examples else marked) for case in cases]
