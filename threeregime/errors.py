"""The error that users see, and errors as text."""

from __future__ import annotations


class ThreeRegimeError(ValueError):
    """A problem that the user can solve; its message is one line that says how."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
