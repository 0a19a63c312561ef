"""The book on paper: all pages as one PDF, printed by a browser, without LaTeX."""

from __future__ import annotations

import shutil
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threeregime._paths import ROOT
from threeregime.book.build import page_names, run_sphinx
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")
# No sandbox: containers and CI run as root. The others keep Chromium from using the network.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT = 120_000  # milliseconds, enough for the slowest page on a slow machine
WIDGET = 'script[type="application/vnd.jupyter.widget-view+json"]'
READY = "() => document.fonts.ready.then(() => window.MathJax?.startup?.promise)"
REPLACE = """([script, picture]) => {
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


def find_chromium() -> str:
    """Return the path of the browser.

    Raises:
        ThreeRegimeError: there is none.
    """
    for name in PROGRAMS:
        if path := shutil.which(name):
            return path
    names = ", ".join(PROGRAMS)
    raise ThreeRegimeError(f"no browser to print with: install one of {names}, or put it on PATH")


@contextmanager
def open_browser() -> Iterator[Browser]:
    """Start the browser; it is closed when the context ends.

    Raises:
        ThreeRegimeError: there is none.
    """
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


def print_book(browser: Browser, out: Path | None = None, root: Path = ROOT) -> Path:
    """Print the book that `threeregime.book.build_book` has built.

    Args:
        browser: see :func:`open_browser`.
        out: folder of that build (default ``book``).
        root: folder of the project.

    Returns:
        Path of ``threeregime.pdf``, next to the folder of the pages.

    Raises:
        ThreeRegimeError: Sphinx warned.
    """
    names = page_names(root)
    single = run_sphinx("singlehtml", out, root)
    path = single.parent / "threeregime.pdf"
    pages = [single.parent / "html" / f"{name}.html" for name in names]
    stills = [still for page in pages for still in photograph_widgets(browser, page)]
    page = open_page(browser, flatten(single, names[0]))
    page.evaluate(READY)
    for script, still in zip(page.query_selector_all(WIDGET), stills, strict=True):
        page.evaluate(REPLACE, [script, b64encode(still).decode()])
    page.pdf(path=path, **PAPER)
    page.close()
    return path


def open_page(browser: Browser, path: Path) -> Page:
    """Open a page of the book without a network, in light colors."""
    page = browser.new_page(offline=True, device_scale_factor=2, color_scheme="light")
    page.set_default_timeout(TIMEOUT)
    page.goto(path.as_uri())
    return page


def flatten(single: Path, first: str) -> Path:
    """Move the single page to the folder that its addresses are relative to.

    Sphinx writes it under the name of the first page, which may lie in a folder. Links to the first
    page become links within the page.

    Args:
        single: folder of the single page.
        first: name of the first page.

    Returns:
        Path of the new page.
    """
    text = (single / f"{first}.html").read_text(encoding="utf-8")
    text = text.replace(f'href="{first}.html#', 'href="#').replace('src="../_', 'src="_')
    path = single / "book.html"
    path.write_text(text, encoding="utf-8")
    return path


def photograph_widgets(browser: Browser, path: Path) -> list[bytes]:
    """Return pictures (PNG) of the widgets on a page.

    The single page cannot show them: the states of widgets from several pages clash.
    """
    if "widget-view+json" not in path.read_text(encoding="utf-8"):
        return []
    page = open_page(browser, path)
    page.emulate_media(media="print")  # without the bars and buttons of the page
    count = page.locator(WIDGET).count()
    widgets = page.locator(f":has(> {WIDGET})")
    pictures = []
    for number in range(count):
        widget = widgets.nth(number)
        widget.locator(".jupyter-widgets, .widget-subarea > *").first.wait_for()
        page.wait_for_function("[...document.images].every(image => image.complete)")
        pictures.append(widget.screenshot())
    page.close()
    return pictures
