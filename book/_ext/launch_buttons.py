"""Buttons that open the notebook of a page on Binder and on Colab.

The variable ``THREEREGIME_REPOSITORY`` gives the project's address on GitHub as ``owner/name``;
the workflow that publishes the book sets it. Without it there are no buttons.
"""

from __future__ import annotations

import os
import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ConfigError

VARIABLE = "THREEREGIME_REPOSITORY"
# Binder reads the folder .binder of the branch main; tools/colab.py writes the branch colab.
SERVICES = {
    "Binder": ("https://mybinder.org/v2/gh/{}/main?urlpath=lab/tree/{}", "logo_binder.svg"),
    "Colab": ("https://colab.research.google.com/github/{}/blob/colab/{}", "logo_colab.png"),
}


def repository() -> str:
    """Return the address, ``owner/name``, or an empty string.

    Raises:
        ConfigError: the variable has another form.
    """
    address = os.environ.get(VARIABLE, "")
    if address and not re.fullmatch(r"[\w.-]+/[\w.-]+", address):
        raise ConfigError(f"ERROR: {VARIABLE} = {address!r} is not allowed: owner/name")
    return address


def add_buttons(
    app: Sphinx, page: str, template: str, context: dict[str, Any], tree: nodes.document | None
) -> None:
    """Add the two buttons to the page of a notebook, after those of the theme."""
    source = context.get("sourcename", "")
    if not (address := repository()) or not source.endswith(".ipynb"):
        return
    buttons = [
        {
            "type": "link",
            "text": name,
            "tooltip": f"Run this notebook on {name}",
            "icon": f"_static/images/{logo}",
            "url": url.format(address, source),
        }
        for name, (url, logo) in SERVICES.items()
    ]
    group = {"type": "group", "tooltip": "Run this notebook", "icon": "fas fa-rocket"}
    context["header_buttons"].append({**group, "buttons": buttons, "label": "launch-buttons"})


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("html-page-context", add_buttons, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
