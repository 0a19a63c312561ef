"""Definitions of glossary terms as titles of the links to them.

``glossary.js`` turns a title into a popover; without scripts the browser shows the title itself.
"""

from __future__ import annotations

import functools
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


@functools.cache
def definitions(env: BuildEnvironment, page: str) -> dict[str, str]:
    """Return the definitions on a page of terms, as plain text, by the anchor of the term."""
    texts = {}
    for glossary in env.get_doctree(page).findall(addnodes.glossary):
        for item in glossary.findall(nodes.definition_list_item):
            text = " ".join(item.next_node(nodes.definition).astext().split())
            for term in item.findall(nodes.term):
                texts |= dict.fromkeys(term["ids"], text)
    return texts


def define_terms(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Write the definition into each link to a term."""
    pages = {anchor: doc for _, _, kind, doc, anchor, _ in _terms(app.env) if kind == "term"}
    for link in tree.findall(nodes.reference):
        text = link.next_node(nodes.inline)
        if text is None or "std-term" not in text["classes"]:
            continue
        anchor = link.get("refid") or link.get("refuri", "").rpartition("#")[2]
        if anchor in pages:
            link["reftitle"] = definitions(app.env, pages[anchor])[anchor]


def _terms(env: BuildEnvironment) -> list[tuple[str, str, str, str, str, int]]:
    return list(env.get_domain("std").get_objects())


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", define_terms)
    app.add_js_file("glossary.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
