"""Conversion between sections of fields and the plain tables of TOML.

A section is a frozen dataclass; its table holds the values of its fields by name.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_type_hints

from threeregime.errors import ThreeRegimeError

Tables = dict[str, dict[str, Any]]
"""Values of fields by section and name."""

# Cached, since resolving hints dominates the time to make a protocol, of which a plan has hundreds.
_hints = functools.cache(get_type_hints)


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Check a condition on a value.

    Raises:
        ThreeRegimeError: one line with the name, the value and what is allowed.
    """
    if not ok:
        raise ThreeRegimeError(f"{name} = {value!r} is not allowed: {allowed}")


class Section:
    """Base of the sections of a protocol."""

    section: ClassVar[str]

    def check(self, ok: bool, field: str, allowed: str) -> None:
        """Check a condition on a field; see :func:`require`."""
        require(ok, f"{self.section}.{field}", _plain(getattr(self, field)), allowed)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def to_table(section: Any, defaults: bool = True) -> dict[str, Any]:
    """Return the values of a section; with ``defaults=False`` only those that are not defaults."""
    return {
        f.name: _plain(getattr(section, f.name))
        for f in dataclasses.fields(section)
        if defaults or getattr(section, f.name) != f.default
    }


def from_tables(cls: type, tables: Mapping[str, Mapping[str, Any]]) -> Any:
    """Make a dataclass of sections; missing sections and fields have their defaults.

    Raises:
        ThreeRegimeError: an unknown section or field, a value of the wrong type or range.
    """
    sections = [f.name for f in dataclasses.fields(cls)]
    for name in tables:
        require(name in sections, "section", name, f"one of {', '.join(sections)}")
    types = _hints(cls)
    return cls(
        **{name: _make_section(types[name], name, tables.get(name, {})) for name in sections}
    )


def _make_section(cls: type, section: str, values: Mapping[str, Any]) -> Any:
    types = _hints(cls)
    fields = [f.name for f in dataclasses.fields(cls)]
    for name, value in values.items():
        require(name in fields, f"field {section}.{name}", value, ", ".join(fields))
    return cls(**{n: _convert(f"{section}.{n}", types[n], v) for n, v in values.items()})


def _convert(name: str, hint: Any, value: Any) -> Any:
    """Check a TOML value against the type of its field, and convert whole numbers to floats."""
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
    allowed = {int: "a whole number", bool: "true or false", str: "a text"}
    require(type(value) is hint, name, value, allowed[hint])
    return value
