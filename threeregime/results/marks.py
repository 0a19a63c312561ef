"""What an output of a notebook says of itself: the tables that it was made from, the claims in it.

It travels in the output's metadata, which JupyterLab does not show and stored notebooks keep; the
book writes captions from it (``book/_ext``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

KEY = "threeregime"
Shown = TypeVar("Shown")


@dataclass(frozen=True)
class Said:
    """One output of a notebook: where it is, whether it is a picture, and what it says of itself.

    Attributes:
        cell: index of its cell.
        picture: whether it is one.
        facts: what it was marked with; empty where it was not.
    """

    cell: int
    picture: bool
    facts: dict[str, Any]


def mark(shown: Shown, **facts: Any) -> Shown:
    """Have a notebook store facts (plain values) with this object wherever it shows it."""
    vars(shown)["_repr_mimebundle_"] = partial(_bundle, facts)
    return shown


def _bundle(facts: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """No further form to show the object in, and metadata: IPython adds its own forms."""
    return {}, {KEY: facts}


def said(notebook: Path) -> Iterator[Said]:
    """What the outputs of a stored notebook say, in their order; streams and errors are left out.

    Args:
        notebook: path of the ``.ipynb``.
    """
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", []):
            if "data" in output:
                facts = output.get("metadata", {}).get(KEY, {})
                yield Said(number, "image/png" in output["data"], facts)
