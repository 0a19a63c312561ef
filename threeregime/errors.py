"""The one exception that users see."""

from __future__ import annotations


class ThreeRegimeError(ValueError):
    """Something the user can put right; its message is one line that says how.

    The command line prints the message alone and exits with status 2.
    """
