"""Open pages in a real browser, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any


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
