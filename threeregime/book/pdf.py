"""The book on paper: all its pages as one PDF, printed by a browser, without LaTeX."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threeregime.book import build
from threeregime.book.notebooks import ROOT
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["browsing", "chromium", "print_book"]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# No sandbox: containers and CI run as root. The rest keeps Chromium from calling home at the start.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 120_000  # milliseconds, for the slowest of pages on the slowest of machines
WIDGET = 'script[type="application/vnd.jupyter.widget-view+json"]'
READY = "() => document.fonts.ready.then(() => window.MathJax?.startup?.promise)"
PUT = """([script, picture]) => {
    const image = document.createElement("img");
    image.alt = "The interactive figure, as it is when the page is opened";
    image.src = "data:image/png;base64," + picture;
    script.replaceWith(image);
    return image.decode();
}"""
PAPER: dict[str, Any] = {
    "format": "A4",
    "scale": 0.75,
    "margin": {"top": "18mm", "bottom": "20mm", "left": "18mm", "right": "18mm"},
    "print_background": True,
    "tagged": True,
    "outline": True,
    "display_header_footer": True,
    "header_template": "<span></span>",
    "footer_template": '<div style="font-size: 8px; width: 100%; text-align: center">'
    '<span class="pageNumber"></span></div>',
}


def chromium() -> str:
    """Path of the browser.

    Raises:
        ThreeRegimeError: there is none.
    """
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    names = ", ".join(PROGRAMS)
    raise ThreeRegimeError(f"no browser to print with: install one of {names}, or put it on PATH")


@contextmanager
def browsing() -> Iterator[Browser]:
    """The browser, running.

    Raises:
        ThreeRegimeError: there is none.
    """
    from playwright.sync_api import sync_playwright

    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


def print_book(browser: Browser, out: Path | None = None, root: Path = ROOT) -> Path:
    """Print the book that :func:`threeregime.book.build` has built.

    Args:
        browser: see :func:`browsing`.
        out: folder that it was built for (default ``book``).
        root: the project's folder.

    Returns:
        Path of ``threeregime.pdf``, beside the folder of the pages.

    Raises:
        ThreeRegimeError: Sphinx warned.
    """
    names = build.pages(root)
    single = build.sphinx("singlehtml", out, root)
    path = single.parent / "threeregime.pdf"
    built = [single.parent / "html" / f"{name}.html" for name in names]
    stills = [still for page in built for still in photograph(browser, page)]
    page = opened(browser, flatten(single, names[0]))
    page.evaluate(READY)
    for script, still in zip(page.query_selector_all(WIDGET), stills, strict=True):
        page.evaluate(PUT, [script, b64encode(still).decode()])
    page.pdf(path=path, **PAPER)
    page.close()
    return path


def opened(browser: Browser, path: Path) -> Page:
    """A page of the book, without a network, in light colours."""
    page = browser.new_page(offline=True, device_scale_factor=2, color_scheme="light")
    page.set_default_timeout(WAIT)
    page.goto(path.as_uri())
    return page


def flatten(single: Path, first: str) -> Path:
    """Move the one page to where its addresses count from, and let its links stay within it.

    Sphinx writes it under the name of the first page, which may lie in a folder.
    """
    text = (single / f"{first}.html").read_text(encoding="utf-8")
    text = text.replace(f'href="{first}.html#', 'href="#').replace('src="../_', 'src="_')
    path = single / "book.html"
    path.write_text(text, encoding="utf-8")
    return path


def photograph(browser: Browser, path: Path) -> list[bytes]:
    """Pictures (PNG) of a page's widgets, whose names clash on the one page of all."""
    if "widget-view+json" not in path.read_text(encoding="utf-8"):
        return []
    page = opened(browser, path)
    page.emulate_media(media="print")  # as on paper: without the page's bars and buttons
    count = page.locator(WIDGET).count()
    shown = page.locator(f":has(> {WIDGET})")
    pictures = []
    for number in range(count):
        shown.nth(number).locator(".jupyter-widgets, .widget-subarea > *").first.wait_for()
        page.wait_for_function("[...document.images].every(image => image.complete)")
        pictures.append(shown.nth(number).screenshot())
    page.close()
    return pictures
