"""Facts in the outputs of a notebook: the tables that an output was made from, the claims in it.

They lie in the output's metadata, which JupyterLab does not show and stored notebooks keep; the
book writes captions from them (``book/_ext``).
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
class OutputFacts:
    """One output of a stored notebook.

    Attributes:
        cell: index of its cell.
        picture: whether it is a picture.
        facts: those that were attached to it; empty where there were none.
    """

    cell: int
    picture: bool
    facts: dict[str, Any]


def attach_facts(shown: Shown, **facts: Any) -> Shown:
    """Store facts (plain values) with an object wherever a notebook shows it; return the object."""
    vars(shown)["_repr_mimebundle_"] = partial(_bundle, facts)
    return shown


def _bundle(facts: dict[str, Any], **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return no further form of the object, and metadata: IPython adds its own forms."""
    return {}, {KEY: facts}


def read_outputs(notebook: Path) -> Iterator[OutputFacts]:
    """Yield the outputs of a stored notebook, in their order, without streams and errors.

    Args:
        notebook: path of the ``.ipynb``.
    """
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        for output in cell.get("outputs", []):
            if "data" in output:
                facts = output.get("metadata", {}).get(KEY, {})
                yield OutputFacts(number, "image/png" in output["data"], facts)
