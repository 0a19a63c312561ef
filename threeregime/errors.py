"""The error that users see, and errors as text."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar


class ThreeRegimeError(ValueError):
    """A problem that the user can solve; its message is one line that says how."""


class DamagedFile(ThreeRegimeError):
    """A file that is not what it should be; its message names the file and the reason.

    Args:
        path: the file.
        reason: what is wrong with it.

    Attributes:
        kind: what it should be, for the message.
        remedy: what to do about it.
    """

    kind: ClassVar[str]
    remedy: ClassVar[str]

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path} is not a {self.kind} ({' '.join(self.reason.split())}); {self.remedy}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
