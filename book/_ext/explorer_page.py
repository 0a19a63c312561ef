"""The directive ``{explorer} PATH``: the explorer of a stored notebook on a page of text.

The content of the directive, a still picture, is shown where scripts do not run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from threeregime.figures import explorer


class ExplorerDirective(SphinxDirective):
    """The explorer of an executed notebook, whose path is relative to the page."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Return the widget as HTML, followed by the still picture."""
        path = Path(self.env.doc2path(self.env.docname)).parent / self.arguments[0]
        self.env.note_dependency(str(path.resolve()))
        widget = nodes.raw("", explorer.embed_html(explorer.stored_traits(path)), format="html")
        still = nodes.container(classes=["explorer-still"])
        self.state.nested_parse(self.content, self.content_offset, still)
        return [widget, still]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("explorer", ExplorerDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
