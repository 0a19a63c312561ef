"""Conversion between sections of fields and the plain tables of TOML, and the values they allow.

A section is a frozen dataclass; its table holds the values of its fields by name. Experiment files,
``--set`` and the parameters of notebooks all come this way, so that the same values are allowed.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import tomllib
from collections.abc import Mapping
from typing import Any, ClassVar, get_type_hints

from threeregime.errors import ThreeRegimeError

Tables = dict[str, dict[str, Any]]
"""Values of fields by section and name."""

INTEGER_BOUND = 2**63
"""Whole numbers are below it, and above its negative: tables hold integers of 64 bits."""
SHOWN_CHARACTERS = 80
"""Longest value that an error repeats in full."""

# Cached, since resolving hints dominates the time to make a protocol, of which a plan has hundreds.
_hints = functools.cache(get_type_hints)


def require(ok: bool, name: str, value: object, allowed: str) -> None:
    """Check a condition on a value.

    Raises:
        ThreeRegimeError: one line with the name, the value and what is allowed.
    """
    if not ok:
        raise ThreeRegimeError(f"{name} = {shorten(value)} is not allowed: {allowed}")


def shorten(value: object) -> str:
    """Return a value as an error repeats it: on one line, and not longer than a line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Python refuses to print integers of thousands of digits and lists that are too deep.
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 4]} ..."


def parse_toml(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raises:
        ValueError: it is not TOML, or has integers or a nesting that are refused for their size.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def is_whole(value: object) -> bool:
    """Return whether a value is a whole number that tables can hold; true and false are not."""
    return type(value) is int and abs(value) < INTEGER_BOUND


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
        whole = isinstance(value, (list, tuple)) and all(map(is_whole, value))
        require(whole, name, value, "a list of whole numbers")
        return tuple(value)
    if hint == int | None:
        require(value is None or is_whole(value), name, value, "a whole number")
        return value
    if hint is float:
        number = is_whole(value) or (isinstance(value, float) and math.isfinite(value))
        require(number, name, value, "a finite number")
        return float(value)
    if hint is int:
        require(is_whole(value), name, value, "a whole number")
        return value
    allowed = {bool: "true or false", str: "a text"}
    require(type(value) is hint, name, value, allowed[hint])
    return value
