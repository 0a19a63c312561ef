"""The book as a reader gets it: built once, every page opened in a browser without a network."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.helpers.browsing import Visit
from threeregime._paths import ROOT
from threeregime.book import build
from threeregime.errors import ThreeRegimeError

PICTURES = {"regimes.png", "claims.png"}
"""Pictures of the README."""


def test_fonts_of_the_widgets_lie_in_the_book(html: Path, browser: Any) -> None:
    sources = """[...document.styleSheets]
        .flatMap(sheet => { try { return [...sheet.cssRules]; } catch { return []; } })
        .filter(rule => rule instanceof CSSFontFaceRule)
        .map(rule => rule.style.src)"""
    with Visit(browser, html / "notebooks/explorer.html") as visit:
        found = re.findall(r'url\("(file:[^"#?]+\.woff2)', " ".join(visit.page.evaluate(sources)))
    assert len(found) >= 6
    assert [font for font in found if not Path(url2pathname(urlsplit(font).path)).is_file()] == []


def test_pages_weigh_less_than_25_megabytes(html: Path) -> None:
    weights = {path: path.stat().st_size for path in html.rglob("*") if path.is_file()}
    heaviest = sorted(weights, key=lambda path: -weights[path])[:5]
    assert sum(weights.values()) < 25_000_000, f"heaviest: {heaviest}"


def without_pictures(notebook: str) -> Any:
    """A notebook with sizes in place of its pictures, since those of downloads have palettes."""
    content = json.loads(notebook)
    for cell in content["cells"]:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
                    output["data"]["image/png"] = picture.size
    return content


def test_downloads_are_the_notebooks_themselves(html: Path) -> None:
    names = [name for name in build.page_names() if name.startswith("notebooks/")]
    assert len(names) > 20
    for name in names:
        assert f'href="../_sources/{name}.ipynb"' in (html / f"{name}.html").read_text()
        texts = [(at / f"{name}.ipynb").read_text() for at in (html / "_sources", ROOT)]
        shown, stored = map(without_pictures, texts)
        assert shown == stored, name


def test_pictures_of_the_readme_show_the_shipped_tables() -> None:
    stored = ROOT / "book" / "images"
    before = {path.name: path.read_bytes() for path in stored.glob("*.png")}
    assert before.keys() == PICTURES
    build.draw_pictures(stored)
    after = {path.name: path.read_bytes() for path in stored.glob("*.png")}
    assert after == before, "`make book` would draw them again"


@pytest.mark.exhaustive
def test_pictures_of_the_readme_are_as_they_are_drawn_now(tmp_path: Path) -> None:
    stored = ROOT / "book" / "images"
    build.draw_pictures(tmp_path)
    for name in PICTURES:
        with Image.open(stored / name) as one, Image.open(tmp_path / name) as other:
            assert one.size == other.size
            both = ImageChops.difference(one.convert("L"), other.convert("L"))
        # Fonts are drawn differently on other machines.
        assert ImageStat.Stat(both).mean[0] < 2, f"delete {stored / name} and run `make book`"


def test_pages_are_built_when_something_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, builds = tmp_path / "root", []

    def run_sphinx(builder: str, out: Path, root: Path) -> None:
        builds.append(builder)
        html = out / "_build" / builder
        html.mkdir(parents=True, exist_ok=True)
        (html / "index.html").touch()
        (html / "page.html").touch()

    def builds_again() -> bool:
        before = len(builds)
        build.build_book(execute=False, out=tmp_path / "out", root=root)
        return len(builds) > before

    monkeypatch.setattr(build, "run_sphinx", run_sphinx)
    root.mkdir()
    (root / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    assert builds_again()
    assert not builds_again()
    (root / "page.md").write_text("# Page\n")
    assert builds_again()
    monkeypatch.setenv("THREEREGIME_REPOSITORY", "somebody/threeregime")
    assert builds_again()
    assert not builds_again()
    # a build that was interrupted
    (tmp_path / "out" / "_build" / "html.sha256").unlink()
    assert builds_again()
    (tmp_path / "out" / "_build" / "html" / "page.html").unlink()
    assert builds_again()


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


def test_introduction_opens_on_the_explorer_and_the_picture_stands_in_without_scripts(
    html: Path, browser: Any
) -> None:
    page = html / "book" / "intro.html"
    widget, still = ".threeregime-explorer", ".explorer-still img"
    with Visit(browser, page) as visit:
        assert visit.page.locator(f"{widget} .advice").inner_text().startswith("Regime I: ")
        assert not visit.page.locator(still).is_visible()
    with Visit(browser, page, java_script_enabled=False) as visit:
        assert visit.page.locator(widget).count() == 0
        assert visit.page.locator(still).is_visible()


def test_slider_works_without_a_kernel(html: Path, browser: Any) -> None:
    with Visit(browser, html / "notebooks" / "landscapes.html") as visit:
        tab = visit.page
        tab.get_by_text("Regime I: the net at 0.50", exact=True).wait_for()
        tab.locator(".noUi-handle").first.press("ArrowRight")
        tab.get_by_text("Regime I: the net at 0.52", exact=True).wait_for()
        assert visit.wrong == []


def test_pictures_stand_in_for_live_nets_without_scripts(html: Path, browser: Any) -> None:
    page, still = html / "notebooks" / "landscapes.html", ".tag_explorer-still img"
    with Visit(browser, page) as visit:
        visit.page.locator(".threeregime-live").first.wait_for()
        assert not visit.page.locator(still).first.is_visible()
    with Visit(browser, page, java_script_enabled=False) as visit:
        assert visit.page.locator(still).count() == 2
        assert visit.page.locator(still).first.is_visible()
        assert "line between two copies" in (
            visit.page.locator(still).first.get_attribute("alt") or ""
        )


def test_formulas_are_typeset(html: Path, browser: Any) -> None:
    with Visit(browser, html / "notebooks" / "landscapes.html") as visit:
        visit.page.locator("mjx-container svg").first.wait_for()


def test_protocol_page_has_the_presets_constants(html: Path) -> None:
    text = (html / "book" / "protocol.html").read_text(encoding="utf-8")
    assert "272,282" in text  # parameters of the paper's net
    assert "38,872" in text  # and of the laptop's
    assert "{{" not in text


def test_missing_page_is_named(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>here</p>")
    with pytest.raises(ThreeRegimeError, match=r"without .*gone\.html"):
        build.check_pages(tmp_path, ["gone"])


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
        build.check_pages(tmp_path, [])


def test_links_to_the_network_are_allowed(tmp_path: Path) -> None:
    page = '<link rel="canonical" href="https://example.org/"><a href="https://example.org/">x</a>'
    (tmp_path / "index.html").write_text(page)
    build.check_pages(tmp_path, [])


@pytest.mark.slow
def test_broken_book_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "_config.yml").write_text("title: broken\nonly_build_toc_files: true\n")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: page\n")
    (tmp_path / "page.md").write_text("# Page\n\n[](nowhere.md)\n")
    with pytest.raises(ThreeRegimeError, match=r"not built.*nowhere") as caught:
        build.build_book(execute=False, out=tmp_path, root=tmp_path)
    assert "\n" not in str(caught.value)
