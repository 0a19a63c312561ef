"""The book for readers with aids and on small screens: axe-core, and widths of tables and code."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browsing import Visit
from tests.helpers.cases import with_examples
from threeregime.book import build

AXE = files("axe_playwright_python").joinpath("axe.min.js")
WORST = ("serious", "critical")
# Each kind of page; the others are made of the same parts, and `make test-all` opens them.
KINDS = (
    *("book/intro", "book/glossary", "book/references", "book/tables", "book/api/claims"),
    *("notebooks/claims", "notebooks/explorer", "notebooks/figure_02", "notebooks/landscapes"),
    "notebooks/figure_03",
)
EXAMPLES = ("book/intro", "notebooks/claims", "notebooks/explorer", "notebooks/landscapes")
FRAMES = ("index", "search")  # pages that Sphinx makes
OPENED = "document.querySelectorAll('.bd-article details').forEach(one => { one.open = true; })"
FOUND = """async ([part, rules]) => {
    const chosen = rules.length ? { runOnly: { type: "rule", values: rules } } : {};
    const options = { resultTypes: ["violations"], ...chosen };
    const found = await axe.run(document.querySelector(part) ?? document, options);
    return found.violations.map(v => [v.impact, v.id, v.nodes[0].target.join(" ")]);
}"""
# Tables and code that are wider than the column, or than the box that they scroll in.
WIDE = """() => {
    const article = document.querySelector("article.bd-article");
    if (!article) return [];
    const edge = article.getBoundingClientRect().right + 1;
    const wide = [];
    for (const part of article.querySelectorAll("table, pre")) {
        if (!part.getClientRects().length) continue;
        let box = part;
        while (box !== article && !/auto|scroll/.test(getComputedStyle(box).overflowX))
            box = box.parentElement;
        const scrolls = box !== article && box.scrollWidth > box.clientWidth + 1;
        const outer = box === article ? part : box;
        if (outer.getBoundingClientRect().right > edge) wide.push(["beyond", part.outerHTML]);
        else if (scrolls) wide.push(["scrolls", part.outerHTML]);
    }
    return wide.map(([how, text]) => [how, text.slice(0, 200)]);
}"""
SIDEWAYS = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def page(html: Path, browser: Any) -> Iterator[Any]:
    """One page for all tests, in light colors on a desktop."""
    with Visit(browser, html / "book" / "intro.html", color_scheme="light") as visit:
        yield visit.page


def violations(page: Any, part: str = "html", rules: tuple[str, ...] = ()) -> list[list[str]]:
    """Return what axe-core finds of a serious or critical impact in a part of a page."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    return [one for one in page.evaluate(FOUND, [part, list(rules)]) if one[0] in WORST]


@pytest.mark.parametrize(
    "name", with_examples([*FRAMES, "genindex", *build.page_names()], [*FRAMES, *KINDS])
)
def test_page_opens_without_a_network_and_can_be_read(html: Path, browser: Any, name: str) -> None:
    """On a desktop, and as wide as a phone; axe-core finds nothing in its text."""
    with Visit(browser, html / f"{name}.html", color_scheme="light") as visit:
        page = visit.page
        # Pictures below the fold may load late.
        page.wait_for_function("[...document.images].every(image => image.complete)")
        assert visit.wrong == []
        empty = "[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        assert page.evaluate(empty) == []
        assert page.title()
        # The frame around the text is the same on all pages.
        assert violations(page, "article.bd-article") == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate(SIDEWAYS) <= 0
        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate(OPENED)
        assert page.evaluate(WIDE) == []
        page.set_viewport_size({"width": 360, "height": 900})
        assert page.evaluate(SIDEWAYS) <= 0
        assert [found for found in page.evaluate(WIDE) if found[0] == "beyond"] == []


@pytest.mark.parametrize("name", with_examples(KINDS, EXAMPLES))
def test_axe_finds_nothing_in_the_dark_and_on_a_phone(html: Path, page: Any, name: str) -> None:
    page.set_viewport_size({"width": 360, "height": 900})
    page.goto((html / f"{name}.html").as_uri())
    assert violations(page) == []
    page.set_viewport_size({"width": 1280, "height": 900})
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_timeout(300)  # colors change gradually
    assert violations(page, rules=("color-contrast", "link-in-text-block")) == []


def test_claims_are_filtered_without_a_kernel(html: Path, browser: Any) -> None:
    path = html / "notebooks" / "claims.html"
    with Visit(browser, path, "#claim-depth") as visit:
        page = visit.page
        rows = page.locator("details.claim")
        total = rows.count()
        assert page.locator("#claim-depth").get_attribute("open") is not None
        verdict = page.get_by_label("Verdict")
        verdict.select_option("open")
        shown = page.locator("details.claim:visible")
        kinds = {shown.nth(n).get_attribute("data-verdict") for n in range(shown.count())}
        assert kinds == {"open"}
        assert f"{shown.count()} of {total} claims" in page.locator(".claims-filters").inner_text()
        verdict.select_option("")
        page.get_by_label("In the paper").select_option("Section 3.2")
        assert 0 < shown.count() < total
        # A link to a row that is filtered out shows it.
        page.evaluate("location.hash = 'claim-quantization'")
        page.locator("#claim-quantization .claim-body").wait_for()
        assert shown.count() == total
        assert visit.wrong == []


def test_first_page_is_interactive_within_a_second_and_a_half(html: Path, page: Any) -> None:
    page.goto((html / "book" / "intro.html").as_uri())
    page.locator(".threeregime-explorer .advice").wait_for()
    # Of the page alone: a busy machine takes longer in between.
    timing = "performance.getEntriesByType('navigation')[0].domInteractive"
    assert page.evaluate(timing) < 1500


def test_button_copies_a_citation_without_a_network(html: Path, browser: Any) -> None:
    with Visit(browser, html / "book" / "references.html") as visit:
        box = visit.page.locator(".cite-this").first
        box.hover()
        box.locator("button.copybtn").click()
        visit.page.locator(".cite-this button.copybtn.success").wait_for()
        visit.page.evaluate("document.body.append(document.createElement('textarea'))")
        area = visit.page.locator("body > textarea")
        area.focus()
        visit.page.keyboard.press("Control+V")
        assert area.input_value().startswith("@inproceedings{zhou2023three")
        assert visit.wrong == []
