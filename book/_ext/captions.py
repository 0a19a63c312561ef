"""Captions of figures: the notebook, its tables as CSV with checksums, and their provenance.

The outputs of a stored notebook name the tables that they were made from (see
`threeregime.results.output_facts`). The directive ``{shipped-tables}`` lists all downloads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

from threeregime.book import downloads
from threeregime.book.downloads import Export
from threeregime.results import OutputFacts, TablesId, read_outputs

FOLDER = "tables"  # of the downloads, next to the pages
PAGE = "book/tables"
VISIBLE = 3  # studies below a picture; more are folded away
PAPER = "The paper's own values were read back from its published figure."
Exports = dict[tuple[str, str, str], Export]


def write_tables(app: Sphinx, config: Config) -> None:
    """Write the downloads; their contents are configuration, so that pages follow their changes."""
    exports = downloads.write_tables(Path(app.outdir) / FOLDER)
    config.shipped_tables = {
        (e.tables.experiment, e.tables.scale, e.tables.data): e for e in exports
    }


def caption_figures(app: Sphinx, tree: nodes.document) -> None:
    """Insert a caption below each picture that was made from tables."""
    page = app.env.docname
    path = Path(app.env.doc2path(page))
    if path.suffix != ".ipynb":
        return
    outputs = list(read_outputs(path))
    page_tables = _tables(output.facts for output in outputs)
    pictures = [output for output in outputs if output.picture]
    bundles = [b for b in tree.findall(nodes.container) if _is_picture(b)]
    for bundle, picture in zip(bundles, pictures, strict=True):
        if text := caption(app, page, picture, page_tables):
            index = bundle.parent.index(bundle) + 1
            bundle.parent.insert(index, nodes.raw("", text, format="html"))


def _is_picture(node: nodes.container) -> bool:
    """Return whether this is an output of a cell with a picture among its MIME types."""
    types = {child.get("mime_type") for child in node.children if isinstance(child, nodes.Element)}
    return node.get("nb_element") == "mime_bundle" and "image/png" in types


def _tables(facts: Iterable[Mapping[str, Any]]) -> list[TablesId]:
    """Return the tables named by outputs, each once."""
    named = [tables for fact in facts for tables in fact.get("tables", [])]
    return list(dict.fromkeys(TablesId(**tables) for tables in named))


def caption(app: Sphinx, page: str, picture: OutputFacts, page_tables: list[TablesId]) -> str:
    """Return the caption of a picture as HTML; empty if neither it nor its page has tables.

    Args:
        app: Sphinx.
        page: name of the page.
        picture: the output with its facts.
        page_tables: all tables of the page, for pictures that do not name their own.
    """
    names = _tables([picture.facts]) if "tables" in picture.facts else page_tables
    paper = picture.facts.get("paper", False)
    if not names and not paper:
        return ""
    up, file = "../" * page.count("/"), page.rpartition("/")[2]
    link = f'<a href="{up}_sources/{page}.ipynb" download>{file}.ipynb</a>'
    parts = [f"<p>Notebook: {link}.{' ' + PAPER if paper else ''}</p>"]
    head = "Tables" if "tables" in picture.facts else "Tables of this page"
    sources = [_source(app, page, name, head) for name in names]
    if len(sources) > VISIBLE:
        summary = f"<summary>{head}: {len(sources)} studies</summary>"
        sources = [f"<details>{summary}{''.join(sources)}</details>"]
    parts += sources
    return (
        f'<div class="trace" role="note" aria-label="Source of this figure">{"".join(parts)}</div>'
    )


def _source(app: Sphinx, page: str, name: TablesId, head: str) -> str:
    """Return the links to the tables of one study, and their provenance."""
    label = escape(f"{name.experiment}, {name.scale}")
    export: Export | None = app.config.shipped_tables.get((name.experiment, name.scale, name.data))
    if export is None:
        return f"<p>{head}: {label} ({escape(name.data)}), which are not shipped.</p>"
    up = "../" * page.count("/")
    address = f"{app.builder.get_relative_uri(page, PAGE)}#{_anchor(export)}"
    files = ", ".join(
        f'<a href="{up}{FOLDER}/{f.name}" download title="SHA-256 {f.sha256}">{f.kind}</a> '
        f"<code>{f.sha256[:12]}</code>"
        for f in export.files
    )
    old = "" if export.tables == name else "<strong>Drawn from an earlier state of them.</strong>"
    return (
        f'<p>{head}: <a href="{address}">{label}</a>: {files} (CSV, SHA-256). {old}</p>'
        f"<details><summary>{escape(export.line)}</summary>{_facts(export)}</details>"
    )


def _facts(export: Export) -> str:
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in export.facts.items())
    return f"<dl>{rows}</dl>"


def _anchor(export: Export) -> str:
    return f"tables-{export.stem}"


class ShippedTables(SphinxDirective):
    """A section for each experiment and scale whose tables are shipped."""

    def run(self) -> list[nodes.Node]:
        """Return the sections: title, downloads with size and checksum, provenance."""
        exports: Exports = self.config.shipped_tables
        return [self._section(export) for export in exports.values()]

    def _section(self, export: Export) -> nodes.Node:
        name = export.tables
        title = nodes.title("", f"{name.experiment}, {name.scale}")
        return nodes.section("", title, self._body(export), ids=[_anchor(export)])

    def _body(self, export: Export) -> nodes.Node:
        up = "../" * self.env.docname.count("/")
        rows = "".join(
            f'<tr><td><a href="{up}{FOLDER}/{f.name}" download>{f.name}</a></td>'
            f"<td>{f.rows:,}</td><td>{f.size / 1000:.1f} kB</td>"
            f"<td><code>{f.sha256}</code></td></tr>"
            for f in export.files
        )
        head = "<tr><th>file</th><th>rows</th><th>size</th><th>SHA-256</th></tr>"
        text = (
            f'<p>{escape(export.title)}.</p><div class="trace">'
            f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
            f"<details><summary>{escape(export.line)}</summary>{_facts(export)}</details></div>"
        )
        return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("shipped-tables", ShippedTables)
    app.add_config_value("shipped_tables", {}, "env", types=(dict,))
    app.connect("config-inited", write_tables)
    app.connect("doctree-read", caption_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
