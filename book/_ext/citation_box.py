"""The directive ``{citations}``: BibTeX of the paper and this software, from ``CITATION.cff``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from threeregime._paths import ROOT

FILE = "CITATION.cff"
KINDS = {"software": "software", "conference-paper": "inproceedings", "article": "article"}


def authors(entry: Mapping[str, Any]) -> str:
    """Return the authors of an entry in the form of BibTeX."""
    return " and ".join(
        f"{{{one['name']}}}" if "name" in one else f"{one['family-names']}, {one['given-names']}"
        for one in entry["authors"]
    )


def bibtex(entry: Mapping[str, Any], key: str) -> str:
    """Return an entry of a CFF file as BibTeX.

    Args:
        entry: the file itself, or one of its references.
        key: name of the entry.
    """
    fields = {
        "title": f"{{{entry['title']}}}",
        "author": authors(entry),
        "booktitle": entry.get("collection-title"),
        "volume": entry.get("volume"),
        "publisher": entry.get("publisher", {}).get("name"),
        "year": entry.get("year") or str(entry.get("date-released", ""))[:4],
        "version": entry.get("version"),
        "url": entry.get("url") or entry.get("repository-code"),
    }
    lines = [f"  {name:<9} = {{{value}}}" for name, value in fields.items() if value]
    return f"@{KINDS[entry['type']]}{{{key},\n" + ",\n".join(lines) + "\n}"


class Citations(SphinxDirective):
    """The entries to cite, each with a button that copies it."""

    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return a box for the paper and one for the software."""
        path = Path(ROOT / FILE)
        self.env.note_dependency(str(path))
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = {
            "The paper": bibtex(content["preferred-citation"], "zhou2023three"),
            "This software": bibtex(content, "threeregime"),
        }
        return [self._box(title, text) for title, text in entries.items()]

    def _box(self, title: str, text: str) -> nodes.Node:
        code = nodes.literal_block(text, text, language="bibtex")
        return nodes.container(
            "", nodes.paragraph("", "", nodes.strong("", title)), code, classes=["cite-this"]
        )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("citations", Citations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
