"""Under every figure: its notebook, its tables as CSV with checksums, and where they come from.

Nothing here knows which page shows what: the outputs of a stored notebook say which tables they
were made from (`threeregime.results.output_facts`). ``{shipped-tables}`` lists all that there are
to download.
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

FOLDER = "tables"  # of the downloads, beside the pages
PAGE = "book/tables"
PAPER = "The paper's own values were read back from its published figure."
Exports = dict[tuple[str, str, str], Export]


def write_tables(app: Sphinx, config: Config) -> None:
    """Write the downloads; what is in them is configuration: pages are read anew if it changes."""
    made = downloads.write(Path(app.outdir) / FOLDER)
    config.shipped_tables = {(e.tables.experiment, e.tables.scale, e.tables.data): e for e in made}


def caption_figures(app: Sphinx, tree: nodes.document) -> None:
    """Put a caption under each picture of a page that was made from tables."""
    page = app.env.docname
    path = Path(app.env.doc2path(page))
    if path.suffix != ".ipynb":
        return
    outputs = list(read_outputs(path))
    every = _tables(one.facts for one in outputs)
    pictures = [one for one in outputs if one.picture]
    shown = [b for b in tree.findall(nodes.container) if _is_picture(b)]
    for bundle, picture in zip(shown, pictures, strict=True):
        if text := caption(app, page, picture, every):
            at = bundle.parent.index(bundle) + 1
            bundle.parent.insert(at, nodes.raw("", text, format="html"))


def _is_picture(node: nodes.container) -> bool:
    """Whether this is an output of a cell that has a picture among its forms."""
    forms = {child.get("mime_type") for child in node.children if isinstance(child, nodes.Element)}
    return node.get("nb_element") == "mime_bundle" and "image/png" in forms


def _tables(facts: Iterable[Mapping[str, Any]]) -> list[TablesId]:
    """The tables that some outputs name, each once."""
    return list(dict.fromkeys(TablesId(**each) for one in facts for each in one.get("tables", [])))


def caption(app: Sphinx, page: str, picture: OutputFacts, every: list[TablesId]) -> str:
    """The caption of a picture as HTML; empty where neither it nor its page is of tables.

    Args:
        app: Sphinx.
        page: where it stands.
        picture: the output with its facts.
        every: all tables of the page, for pictures that do not say which they were made from.
    """
    names = _tables([picture.facts]) if "tables" in picture.facts else every
    paper = picture.facts.get("paper", False)
    if not names and not paper:
        return ""
    up, file = "../" * page.count("/"), page.rpartition("/")[2]
    link = f'<a href="{up}_sources/{page}.ipynb" download>{file}.ipynb</a>'
    parts = [f"<p>Notebook: {link}.{' ' + PAPER if paper else ''}</p>"]
    head = "Tables" if "tables" in picture.facts else "Tables of this page"
    parts += [_source(app, page, name, head) for name in names]
    return (
        f'<div class="trace" role="note" aria-label="Source of this figure">{"".join(parts)}</div>'
    )


def _source(app: Sphinx, page: str, name: TablesId, head: str) -> str:
    """The links to one study's tables, and its provenance."""
    label = escape(f"{name.experiment}, {name.scale}")
    made: Export | None = app.config.shipped_tables.get((name.experiment, name.scale, name.data))
    if made is None:
        return f"<p>{head}: {label} ({escape(name.data)}), which are not shipped.</p>"
    up = "../" * page.count("/")
    place = f"{app.builder.get_relative_uri(page, PAGE)}#{_anchor(made)}"
    files = ", ".join(
        f'<a href="{up}{FOLDER}/{f.name}" download title="SHA-256 {f.sha256}">{f.kind}</a> '
        f"<code>{f.sha256[:12]}</code>"
        for f in made.files
    )
    old = "" if made.tables == name else "<strong>Drawn from an earlier state of them.</strong>"
    return (
        f'<p>{head}: <a href="{place}">{label}</a>: {files} (CSV, SHA-256). {old}</p>'
        f"<details><summary>{escape(made.line)}</summary>{_facts(made)}</details>"
    )


def _facts(made: Export) -> str:
    rows = "".join(f"<dt>{k}</dt><dd>{escape(v)}</dd>" for k, v in made.facts.items())
    return f"<dl>{rows}</dl>"


def _anchor(made: Export) -> str:
    return f"tables-{made.stem}"


class ShippedTables(SphinxDirective):
    """A section for each experiment and scale of which tables are shipped."""

    def run(self) -> list[nodes.Node]:
        """Make the sections: title, downloads with size and checksum, provenance."""
        found: Exports = self.config.shipped_tables
        return [self._section(made) for made in found.values()]

    def _section(self, made: Export) -> nodes.Node:
        name = made.tables
        title = nodes.title("", f"{name.experiment}, {name.scale}")
        return nodes.section("", title, self._body(made), ids=[_anchor(made)])

    def _body(self, made: Export) -> nodes.Node:
        up = "../" * self.env.docname.count("/")
        rows = "".join(
            f'<tr><td><a href="{up}{FOLDER}/{f.name}" download>{f.name}</a></td>'
            f"<td>{f.rows:,}</td><td>{f.size / 1000:.1f} kB</td>"
            f"<td><code>{f.sha256}</code></td></tr>"
            for f in made.files
        )
        head = "<tr><th>file</th><th>rows</th><th>size</th><th>SHA-256</th></tr>"
        text = (
            f'<p>{escape(made.title)}.</p><div class="trace">'
            f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
            f"<details><summary>{escape(made.line)}</summary>{_facts(made)}</details></div>"
        )
        return nodes.raw("", text, format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("shipped-tables", ShippedTables)
    app.add_config_value("shipped_tables", {}, "env", types=(dict,))
    app.connect("config-inited", write_tables)
    app.connect("doctree-read", caption_figures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
