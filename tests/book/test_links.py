"""Links, pictures, cells of tables and citations of the built pages, read as HTML."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from threeregime._paths import ROOT
from threeregime.book import build

# What Python prints for a number that is none, or for no value at all.
NO_VALUE = re.compile(r"[+-−]?(nan|NaN|None|inf|NaT|<NA>)( ?%)?")


class Page(HTMLParser):
    """Addresses, anchors, pictures and cells of tables of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.addresses: list[str] = []
        self.anchors: Counter[str] = Counter()
        self.pictures: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self._cell: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.addresses += [value for name in ("href", "src") if (value := named.get(name))]
        self.anchors.update(filter(None, [named.get("id")]))
        if tag == "img":
            self.pictures.append(named)
        if tag in ("td", "th"):
            self._cell = []

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.cells.append("".join(self._cell).strip())
            self._cell = None


@pytest.fixture(scope="module")
def pages(html: Path) -> dict[Path, Page]:
    """All pages by their paths."""
    return {path.resolve(): Page(path) for path in sorted(html.rglob("*.html"))}


def test_links_lead_to_files_and_anchors(pages: dict[Path, Page]) -> None:
    broken, checked = [], 0
    for path, page in pages.items():
        for address in page.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            checked += 1
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.is_file() or (
                place and target in pages and place not in pages[target].anchors
            ):
                broken.append(f"{path.name}: {address}")
    assert broken == []
    assert checked > 5000


def test_anchors_are_unique(pages: dict[Path, Page]) -> None:
    twice = [(p.name, i) for p, page in pages.items() for i, n in page.anchors.items() if n > 1]
    assert twice == []


def test_every_picture_says_what_it_shows(pages: dict[Path, Page]) -> None:
    texts = []
    for path, page in pages.items():
        for picture in page.pictures:
            if picture.get("class") == "toggler":  # unfolds a part of the index of modules
                continue
            text = picture.get("alt") or ""
            assert len(text.split()) >= 5, f"{path.name}: {text!r}"
            assert not re.match(r"Figure:|\S*\.png", text), f"{path.name}: {text!r}"
            texts.append((path, text))
    assert len(texts) > 50
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_no_cell_of_a_table_shows_a_number_that_is_none(pages: dict[Path, Page]) -> None:
    wrong = {
        path.name: cells
        for path, page in pages.items()
        if (cells := [cell for cell in page.cells if NO_VALUE.fullmatch(cell)])
    }
    assert wrong == {}


def test_pages_say_which_version_they_are(html: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name in build.page_names():
        foot = re.search(r'<p class="revision">(.*?)</p>', (html / f"{name}.html").read_text())
        assert foot
        words = rf"Version {re.escape(project['version'])}, (\S+), commit <code>(\w+)</code>"
        assert (found := re.fullmatch(words, foot[1])), foot[1]
        assert found.groups()[::-1] == build.revision()


def test_a_project_without_a_history_has_no_revision(tmp_path: Path) -> None:
    assert build.revision(tmp_path) == ("unknown", "unknown")


def test_citation_file_is_that_of_this_version() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert content["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license", "type"} <= content.keys()
    assert str(content["version"]) == project["version"]
    assert content["license"] == project["license"]
    assert all(entry["version"] == content["version"] for entry in content["references"])


def test_bibtex_of_the_paper_is_that_of_the_readme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    box = importlib.import_module("citation_box")
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    ours = box.bibtex(content["preferred-citation"], "zhou2023three")
    field = re.compile(r"^  (\w+) += \{+(.*?)\}+,?$", re.MULTILINE)
    readme = dict(field.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    fields = dict(field.findall(ours))
    assert {"title", "author", "booktitle", "volume", "publisher", "year", "url"} == fields.keys()
    assert {name: readme[name] for name in fields} == fields
    assert box.bibtex(content, "threeregime").startswith("@software{threeregime,\n")
