"""Verdicts of the ledger on the pages of figures, with links to the rows of the ledger.

They are read from the stored notebook of the ledger, whose rows a script of its page filters.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from threeregime.figures import SIGNS
from threeregime.results import read_outputs

LEDGER = "notebooks/claims"
WITHOUT_BOX = (LEDGER, "notebooks/found")  # pages that list the claims themselves
VISIBLE = 8  # claims; the others are folded away
Claim = dict[str, Any]


def claims(app: Sphinx) -> list[Claim]:
    """Return the claims of the ledger's stored notebook."""
    path = Path(app.srcdir) / f"{LEDGER}.ipynb"
    return [claim for output in read_outputs(path) for claim in output.facts.get("claims", [])]


def add_verdicts(app: Sphinx, tree: nodes.document) -> None:
    """Add a box to the pages of figures."""
    page = app.env.docname
    path = Path(app.env.doc2path(page))
    if page not in WITHOUT_BOX and path.suffix == ".ipynb":
        first, rest = related_claims(page, path, claims(app))
        app.env.note_dependency(str(Path(app.srcdir) / f"{LEDGER}.ipynb"))
        cell = next((c for c in tree.findall(nodes.container) if _has_output(c)), None)
        if (first or rest) and cell is not None:
            ledger = app.builder.get_relative_uri(page, LEDGER)
            box = nodes.raw("", _box(first, rest, ledger), format="html")
            cell.parent.insert(cell.parent.index(cell) + 1, box)


def related_claims(
    page: str, path: Path, known: Iterable[Claim]
) -> tuple[list[Claim], list[Claim]]:
    """Return the claims that a page is about, and the others that rest on tables it shows.

    A page named after a claim is about that claim, and one named after a figure about the claims
    that name the figure; any other page is about the claims that rest on its tables alone.
    """
    known, own = list(known), page.rpartition("/")[2]
    named = own in {claim["name"] for claim in known}
    shown = {
        name["experiment"]
        for output in read_outputs(path)
        for name in output.facts.get("tables", [])
    }
    number = re.search(r"figure_0*(\d+)$", page)
    first, rest = [], []
    for claim in known:
        rests_on = set(claim["experiments"])
        if named:
            about = claim["name"] == own
        else:
            about = number[1] in _figures(claim["where"]) if number else rests_on <= shown
        if about:
            first.append(claim)
        elif rests_on & shown:
            rest.append(claim)
    return first, rest


def _figures(where: str) -> set[str]:
    """Return the numbers of figures in, for instance, "Section 3.2, Figures 2c and 2d"."""
    return set(re.findall(r"\b(\d+)[a-z]?\b", where.partition("Figure")[2]))


def _box(first: list[Claim], rest: list[Claim], ledger: str) -> str:
    first, rest = first[:VISIBLE], [*first[VISIBLE:], *rest]
    if not first:
        first, rest = rest[:VISIBLE], rest[VISIBLE:]
    more = ""
    if rest:
        counts = Counter(claim["verdict"] for claim in rest)
        summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        more = (
            f"<details><summary>{len(rest)} more on the same tables: {summary}</summary>"
            f"{_items(rest, ledger)}</details>"
        )
    return (
        '<aside class="ledger" aria-label="What the ledger says">'
        f'<p><strong>What the <a href="{ledger}">registered studies</a> say:</strong></p>'
        f"{_items(first, ledger)}{more}</aside>"
    )


def _items(listed: list[Claim], ledger: str) -> str:
    return f"<ul>{''.join(_item(claim, ledger) for claim in listed)}</ul>"


def _item(claim: Claim, ledger: str) -> str:
    verdict = claim["verdict"]
    sign = SIGNS[verdict]
    kind = verdict.replace(" ", "-")
    return (
        f'<li class="{kind}"><strong><span aria-hidden="true">{sign}</span> {verdict}</strong> '
        f'<a href="{ledger}#{_anchor(claim)}">{escape(claim["statement"])}</a> '
        f"<span>{escape(claim['effect'])}</span></li>"
    )


def _anchor(claim: Claim) -> str:
    return f"claim-{claim['name']}"


def _has_output(node: nodes.container) -> bool:
    parts = (child.get("nb_element") for child in node.children if isinstance(child, nodes.Element))
    return node.get("nb_element") == "cell_code" and "cell_code_output" in parts


def add_filters(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Load the script that filters the ledger on its page."""
    if page == LEDGER:
        app.add_js_file("claims.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("doctree-read", add_verdicts)
    app.connect("html-page-context", add_filters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
