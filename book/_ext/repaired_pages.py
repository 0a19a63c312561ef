"""Workarounds for defects of the packages behind Jupyter Book.

- sphinx-thebe is always loaded. It adds an address of unpkg.com to every page, and constants that
  are declared twice, an error in browsers.
- A page that shows a figure glued from another page refers to a file that may not be written.
- Pictures without a description get the path of their file as description.
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
    """Disconnect the hooks that write into pages, before they have run."""
    for name, listeners in app.events.listeners.items():
        app.events.listeners[name] = [
            hook for hook in listeners if getattr(hook.handler, "__name__", "") not in THEBE_HOOKS
        ]


def describe_pictures(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Describe a picture without a description by the heading above it."""
    for picture in tree.findall(nodes.image):
        section = picture.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        if "alt" not in picture and section is not None:
            heading = section.next_node(nodes.title)
            picture["alt"] = f"Figure: {heading.astext() if heading else page}"


def write_glued_pictures(app: Sphinx, error: Exception | None) -> None:
    """Write the pictures that pages glue from each other, under the names that pages use."""
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
