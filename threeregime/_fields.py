"""Sections of fields as plain tables, and back: what a protocol is read from and written as.

A section is a frozen dataclass; a table holds the values of its fields as TOML gives them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, get_type_hints

from threeregime.errors import ThreeRegimeError

Tables = dict[str, dict[str, Any]]
"""Values of fields by section and name."""

# Read once: it takes longer than all else in making a protocol, of which a plan makes hundreds.
_hints = functools.cache(get_type_hints)


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Refuse a value of a field in one line, where it is not ok.

    Raises:
        ThreeRegimeError: names the field, the value and what is allowed.
    """
    if not ok:
        raise ThreeRegimeError(f"{name} = {value!r} is not allowed: {allowed}")


def table(section: Any, defaults: bool = True) -> dict[str, Any]:
    """Plain values of a section by field; without ``defaults`` only what differs from them."""
    return {
        f.name: _plain(getattr(section, f.name))
        for f in dataclasses.fields(section)
        if defaults or getattr(section, f.name) != f.default
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def merged(tables: Tables, path: str, value: Any) -> Tables:
    """The same tables but for one field, e.g. ``pruning.density``."""
    section, _, name = path.partition(".")
    return {**tables, section: {**tables.get(section, {}), name: value}}


def built(kind: type, tables: Mapping[str, Mapping[str, Any]]) -> Any:
    """A dataclass of sections from their tables; sections that are not given have their defaults.

    Raises:
        ThreeRegimeError: an unknown section or field, a value of the wrong type or range.
    """
    parts = [f.name for f in dataclasses.fields(kind)]
    for name in tables:
        require(name in parts, "section", name, f"one of {', '.join(parts)}")
    kinds = _hints(kind)
    return kind(**{name: _section(kinds[name], name, tables.get(name, {})) for name in parts})


def _section(kind: type, section: str, given: Mapping[str, Any]) -> Any:
    types = _hints(kind)
    allowed = [f.name for f in dataclasses.fields(kind)]
    for name in given:
        require(name in allowed, f"field {section}.{name}", given[name], f"{', '.join(allowed)}")
    return kind(**{n: _converted(f"{section}.{n}", types[n], v) for n, v in given.items()})


def _converted(name: str, hint: Any, value: Any) -> Any:
    """Check a TOML value against its field's type; whole numbers pass as floats."""
    if hint == tuple[int, ...]:
        whole = isinstance(value, (list, tuple)) and all(type(v) is int for v in value)
        require(whole, name, value, "a list of whole numbers")
        return tuple(value)
    if hint == int | None:
        require(value is None or type(value) is int, name, value, "a whole number")
        return value
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        require(number and math.isfinite(value), name, value, "a finite number")
        return float(value)
    kinds = {int: "a whole number", bool: "true or false", str: "a text"}
    require(type(value) is hint, name, value, kinds[hint])
    return value
