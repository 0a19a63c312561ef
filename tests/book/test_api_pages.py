"""The pages of the public interface: their examples run, and they document every public name."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from threeregime._paths import ROOT

PAGES = {"threeregime": ROOT / "book" / "api.md"}
PAGES |= {f"threeregime.{path.stem}": path for path in sorted((ROOT / "book" / "api").glob("*.md"))}
ROOMS = {f"threeregime.{path.parent.name}" for path in ROOT.glob("threeregime/*/__init__.py")}


def public_names(module: str) -> list[str]:
    names = getattr(importlib.import_module(module), "__all__", [])
    return [name for name in names if not name.startswith("__")]


def test_every_room_has_a_page() -> None:
    assert set(PAGES) == {"threeregime", "threeregime.protocol", *ROOMS}


@pytest.mark.parametrize("module", PAGES)
def test_example_runs(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```", PAGES[module].read_text(), re.S | re.M)
    assert blocks
    for block in blocks:
        example = doctest.DocTestParser().get_doctest(block, {}, module, str(PAGES[module]), 0)
        assert len(example.examples) > 1
        assert doctest.DocTestRunner(verbose=False).run(example).failed == 0


@pytest.mark.parametrize("module", PAGES)
def test_page_documents_every_public_name(html: Path, module: str) -> None:
    path = html / PAGES[module].relative_to(ROOT).with_suffix(".html")
    text = path.read_text(encoding="utf-8")
    for name in public_names(module):
        # in place, or by a link to the page of its room
        assert re.search(rf'(id|title)="(threeregime(\.\w+)?)\.{name}"', text), name


def test_public_names_are_documented_once(html: Path) -> None:
    pages = [html / path.relative_to(ROOT).with_suffix(".html") for path in PAGES.values()]
    places = [re.findall(r'id="(threeregime[\w.]*)"', page.read_text("utf-8")) for page in pages]
    anchors = [anchor for found in places for anchor in found]
    assert len(anchors) > 300
    assert len(anchors) == len(set(anchors))
    for name in public_names("threeregime"):
        places_of_name = [a for a in anchors if re.fullmatch(rf"threeregime(\.\w+)?\.{name}", a)]
        assert len(places_of_name) == 1, name
