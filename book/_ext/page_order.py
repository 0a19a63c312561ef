"""Order of a notebook's page: its parameters stand at the end, where it is run again.

Papermill needs the cell of parameters before the others; a reader wants the figure first.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SECTION = "Run it again"
WORDS = "The parameters of this notebook, with their defaults:"


def move_parameters(app: Sphinx, tree: nodes.document) -> None:
    """Move the cell of parameters to the end of the section "Run it again", if there is one."""
    cell = next((c for c in tree.findall(nodes.container) if _has_parameters(c)), None)
    section = next((s for s in tree.findall(nodes.section) if _title(s) == SECTION), None)
    if cell is not None and section is not None:
        cell.parent.remove(cell)
        section += [nodes.paragraph(WORDS, WORDS), cell]


def _has_parameters(node: nodes.container) -> bool:
    tags = node.get("cell_metadata", {}).get("tags", ())
    return node.get("nb_element") == "cell_code" and "parameters" in tags


def _title(section: nodes.section) -> str:
    title = section.next_node(nodes.title)
    return title.astext() if title is not None else ""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", move_parameters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
