"""Open pages in a real browser, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from threeregime._paths import ROOT

HEAD = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
"""The beginning of a page of a test."""


def write_widgets(folder: Path, shown: Any, *links: Any) -> Path:
    """Write a page with widgets as the book shows them: html-manager and anywidget, no kernel.

    Args:
        folder: of the page.
        shown: the widget to show.
        links: widgets without a view, as those of ``jslink``.
    """
    from ipywidgets.embed import dependency_state

    models = dependency_state([shown, *links], drop_defaults=False)
    vendor = (ROOT / "book" / "_vendor").as_uri()
    script = (ROOT / "book" / "_assets" / "widgets.js").read_text(encoding="utf-8")
    here = 'new URL(".", document.currentScript.src).href'
    (folder / "widgets.js").write_text(script.replace(here, f'"{vendor}/"'))
    kind = "application/vnd.jupyter.widget"
    state = {"version_major": 2, "version_minor": 0, "state": models}
    wrapped = json.dumps(state).replace("</", r"<\/")
    view = {"version_major": 2, "version_minor": 0, "model_id": shown.model_id}
    path = folder / "page.html"
    path.write_text(
        f'{HEAD}<body><script src="{vendor}/requirejs/require.js"></script>'
        '<script src="widgets.js"></script>'
        f'<script src="{vendor}/html-manager/embed-amd.js" '
        'data-jupyter-widgets-cdn="no-network/"></script>'
        f'<script type="{kind}-state+json">{wrapped}</script>'
        f'<script type="{kind}-view+json">{json.dumps(view)}</script>',
        encoding="utf-8",
    )
    return path


class Visit:
    """A page opened with the network off, and its errors."""

    def __init__(self, browser: Any, path: Path, address: str = "", **options: Any) -> None:
        """Open a file at a fragment (``#...``), with options of a playwright context."""
        size = {"width": 1280, "height": 900}
        self.context = browser.new_context(**{"viewport": size, **options})
        self.context.set_offline(True)
        self.context.set_default_timeout(90_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.asked = 0
        self.page.on("request", lambda r: self._network(r.url))
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        self.page.on("console", lambda m: self._console(m.type, m.text))
        self.page.goto(path.as_uri() + address)
        self._settle()

    def _settle(self) -> None:
        """Wait until scripts have asked for nothing for a while.

        Waiting for an idle network instead hangs now and then on pages that come from files.
        """
        asked = -1
        while asked < self.asked:
            asked = self.asked
            self.page.wait_for_timeout(400)

    def _network(self, url: str) -> None:
        self.asked += 1
        if not url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"asked the network: {url}")

    def _console(self, kind: str, text: str) -> None:
        if kind == "error":
            self.wrong.append(f"console: {text}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()
