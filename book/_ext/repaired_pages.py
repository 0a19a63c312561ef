"""Puts right what the packages behind Jupyter Book leave undone on our pages.

- sphinx-thebe, always loaded, would start a kernel on a server. The book offers no such button, yet
  every page gets an address of unpkg.com and constants that are declared twice, a browser error.
- A figure glued from another page is referred to, but its file is written only if that page shows
  the very same bytes.
- Pictures without a description get the path of their file for one.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64decode
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

THEBE_HOOKS = {"init_thebe_core", "update_thebe_context"}


def silence_thebe(app: Sphinx, config: Config) -> None:
    """Disconnect what writes into pages before any has run (its style sheet may stay)."""
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [
            one for one in listeners if getattr(one.handler, "__name__", "") not in THEBE_HOOKS
        ]


def describe_pictures(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Name a picture that has no description after the heading above it."""
    for picture in tree.findall(nodes.image):
        above = picture.parent
        while above is not None and not isinstance(above, nodes.section):
            above = above.parent
        if "alt" not in picture and above is not None:
            heading = above.next_node(nodes.title)
            picture["alt"] = f"Figure: {heading.astext() if heading else page}"


def write_glued_pictures(app: Sphinx, error: Exception | None) -> None:
    """Write the pictures that pages glue from each other, under the names they refer to."""
    if error or app.builder.format != "html":
        return
    for stored in Path(app.env.mystnb_config.output_folder).rglob("*.glue.json"):
        for glued in json.loads(stored.read_text()).values():
            if (picture := glued["data"].get("image/png")) is not None:
                content = b64decode(picture)
                name = f"{hashlib.sha256(content).hexdigest()}.png"
                (Path(app.outdir) / app.builder.imagedir / name).write_bytes(content)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("config-inited", silence_thebe)
    app.connect("doctree-resolved", describe_pictures)
    app.connect("build-finished", write_glued_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
