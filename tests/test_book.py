"""The book as a reader gets it: built once, every page opened in a browser without a network."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from threeregime import book
from threeregime.errors import ThreeRegimeError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
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


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pages, built from the notebooks as they are committed."""
    return book.build(execute=False, out=tmp_path_factory.mktemp("book")).parent


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: `apt-get install chromium`, or have chrome on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


class Visit:
    """A page opened with the network off, and all that went wrong on it."""

    def __init__(self, browser: Any, path: Path) -> None:
        self.context = browser.new_context(viewport={"width": 1280, "height": 900})
        self.context.set_offline(True)
        self.context.set_default_timeout(90_000)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("request", lambda r: self._network(r.url))
        self.page.on("requestfailed", lambda r: self.wrong.append(f"failed: {r.url}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        self.page.on("console", lambda m: self._console(m.type, m.text))
        self.page.goto(path.as_uri())
        # What scripts ask for after the page has loaded. Waiting for an idle network instead hangs
        # now and then on pages that come from files.
        self.page.wait_for_timeout(1_000)

    def _network(self, url: str) -> None:
        if not url.startswith(("file:", "data:", "blob:")):
            self.wrong.append(f"asked the network: {url}")

    def _console(self, kind: str, text: str) -> None:
        if kind == "error":
            self.wrong.append(f"console: {text}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("name", ["index", "search", "genindex", *book.pages()])
def test_page_opens_without_a_network_and_fits_a_phone(html: Path, browser: Any, name: str) -> None:
    with Visit(browser, html / f"{name}.html") as visit:
        # Pictures below the fold may load late.
        visit.page.wait_for_function("[...document.images].every(image => image.complete)")
        assert visit.wrong == []
        empty = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        assert visit.page.evaluate(empty) == []
        assert visit.page.title()
        visit.page.set_viewport_size({"width": 390, "height": 800})
        beyond = "document.documentElement.scrollWidth - window.innerWidth"
        assert visit.page.evaluate(beyond) <= 0


def test_figure_2_is_there(html: Path, browser: Any) -> None:
    with Visit(browser, html / "notebooks" / "figure_02.html") as visit:
        widths = visit.page.eval_on_selector_all(
            "div.cell_output img", "images => images.map(i => i.naturalWidth)"
        )
        assert widths
        assert max(widths) > 500


def test_introduction_shows_the_diagram_and_its_numbers(html: Path, browser: Any) -> None:
    with Visit(browser, html / "book" / "intro.html") as visit:
        assert visit.page.eval_on_selector("main img", "image => image.naturalWidth") > 300
        numbers = visit.page.locator(".pasted-text").all_inner_texts()
        assert len(numbers) > 10
        assert all(re.fullmatch(r"[+-]?[\d.,]+", number) for number in numbers)


def test_slider_works_without_a_kernel(html: Path, browser: Any) -> None:
    shown = ".jupyter-widgets img"
    with Visit(browser, html / "notebooks" / "landscapes.html") as visit:
        handle = visit.page.locator(".noUi-handle").first
        handle.wait_for()
        before = visit.page.locator(shown).get_attribute("src")
        handle.focus()
        handle.press("ArrowRight")
        assert before
        visit.page.wait_for_function(
            "([shown, before]) => document.querySelector(shown).getAttribute('src') !== before",
            arg=[shown, before],
        )


def test_formulas_are_typeset(html: Path, browser: Any) -> None:
    with Visit(browser, html / "notebooks" / "landscapes.html") as visit:
        visit.page.locator("mjx-container svg").first.wait_for()


def test_protocol_page_has_the_presets_constants(html: Path) -> None:
    text = (html / "book" / "protocol.html").read_text(encoding="utf-8")
    assert "272,282" in text  # parameters of the paper's net
    assert "17,414" in text  # and of the digits'
    assert "{{" not in text


def test_missing_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>")
    with pytest.raises(ThreeRegimeError, match=r"without .*gone\.html"):
        book.check(tmp_path, ["gone"])


@pytest.mark.parametrize(
    "fetch",
    [
        '<script src="https://example.org/x.js"></script>',
        '<link rel="stylesheet" href="//example.org/x.css">',
        '<img alt="" src="http://example.org/x.png">',
    ],
)
def test_page_that_would_fetch_is_named(tmp_path: Path, fetch: str) -> None:
    (tmp_path / "index.html").write_text(fetch)
    with pytest.raises(ThreeRegimeError, match=r"index\.html would fetch"):
        book.check(tmp_path, [])


def test_links_to_the_network_are_allowed(tmp_path: Path) -> None:
    page = '<link rel="canonical" href="https://example.org/"><a href="https://example.org/">x</a>'
    (tmp_path / "index.html").write_text(page)
    book.check(tmp_path, [])


def test_broken_book_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text("title: broken\nonly_build_toc_files: true\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (tmp_path / "page.md").write_text("# Page\n\n[](nowhere.md)\n")
    with pytest.raises(ThreeRegimeError, match=r"not built.*nowhere") as caught:
        book.build(execute=False, out=tmp_path, root=tmp_path)
    assert "\n" not in str(caught.value)
