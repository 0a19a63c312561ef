"""What helps to publish and to read the book, on a small book of two pages and a notebook."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sphinx.errors import ConfigError

from tests.helpers.browsing import Visit
from threeregime.book import build, notebooks, pdf
from threeregime.errors import ThreeRegimeError

ROOT = notebooks.ROOT
ADDRESS = "somebody/threeregime"
CELL = {"cell_type": "markdown", "id": "only", "metadata": {}, "source": ["# A notebook\n"]}
NOTEBOOK = {
    "cells": [CELL],
    "metadata": {"kernelspec": {"display_name": "", "language": "python", "name": "python3"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}
PAGE = """# First page

How much {term}`noise <Temperature>` there is, and once more {term}`Temperature`.
On to [the other page](words.md) and [the notebook](notebooks/small.ipynb).
"""
WORDS = """# Second page

```{glossary}
Temperature
  How *much* noise there is.
  See [the first page](page.md).
```
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a project whose book has these pages, set up as ours is."""
    root = tmp_path_factory.mktemp("small")
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    config["bibtex_bibfiles"] = [str(ROOT / path) for path in config["bibtex_bibfiles"]]
    wanted = ("glossary_terms", "launch_buttons", "lighter_pages", "repaired_pages")
    config["sphinx"]["local_extensions"] = {name: str(ROOT / "book/_ext") for name in wanted}
    settings = config["sphinx"]["config"]
    settings["html_static_path"] = [str(ROOT / path) for path in settings["html_static_path"]]
    (root / "_config.yml").write_text(yaml.safe_dump(config))
    chapters = [{"file": "words"}, {"file": "notebooks/small"}]
    toc = {"format": "jb-book", "root": "page", "chapters": chapters}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False))
    (root / "page.md").write_text(PAGE)
    (root / "words.md").write_text(WORDS)
    (root / "notebooks").mkdir()
    (root / "notebooks" / "small.ipynb").write_text(json.dumps(NOTEBOOK))
    return root


@pytest.fixture(scope="module")
def plain(small: Path) -> Path:
    """Its pages, built without the repository's address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("THREEREGIME_REPOSITORY", raising=False)
        return build.build_book(execute=False, out=small, root=small).parent


@pytest.fixture(scope="module")
def published(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pages, built with the address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THREEREGIME_REPOSITORY", ADDRESS)
        out = tmp_path_factory.mktemp("published")
        return build.build_book(execute=False, out=out, root=small).parent


# --- terms of the glossary ------------------------------------------------------------------------

DEFINITION = "How much noise there is. See the first page."
POPOVER = ".glossary-popover:not([hidden])"
TERM = "a:has(> .std-term)"


def test_a_term_shows_its_definition_and_hides_it_again(plain: Path, browser: Any) -> None:
    with Visit(browser, plain / "page.html") as visit:
        link, popover = visit.page.locator(TERM).first, visit.page.locator(POPOVER)
        assert popover.count() == 0
        link.hover()
        assert popover.inner_text() == DEFINITION
        # pointing at the popover keeps it open, pointing elsewhere does not
        popover.hover()
        visit.page.wait_for_timeout(400)
        assert popover.count() == 1
        visit.page.mouse.move(0, 0)
        popover.wait_for(state="detached")
        link.focus()
        assert popover.count() == 1
        assert link.get_attribute("aria-describedby") == popover.get_attribute("id")
        assert popover.get_attribute("role") == "tooltip"
        visit.page.keyboard.press("Escape")
        assert popover.count() == 0
        assert visit.wrong == []


def test_the_first_tap_shows_the_definition_and_the_second_follows(
    plain: Path, browser: Any
) -> None:
    phone: dict[str, Any] = {
        "viewport": {"width": 390, "height": 800},
        "has_touch": True,
        "is_mobile": True,
    }
    with Visit(browser, plain / "page.html", **phone) as visit:
        visit.page.locator(TERM).first.tap()
        at = visit.page.locator(POPOVER).bounding_box()
        assert at["x"] >= 0
        assert at["x"] + at["width"] <= 390
        assert visit.page.url.endswith("page.html")
        visit.page.locator(TERM).first.tap()
        visit.page.wait_for_url("**/words.html#term-Temperature")


def test_without_scripts_the_browser_shows_the_definition(plain: Path, browser: Any) -> None:
    with Visit(browser, plain / "page.html", java_script_enabled=False) as visit:
        for link in visit.page.locator(TERM).all():
            assert link.get_attribute("title") == DEFINITION
            assert link.get_attribute("href") == "words.html#term-Temperature"


# --- downloads and launch buttons -----------------------------------------------------------------


def test_launch_buttons_lead_to_the_notebook(published: Path, browser: Any) -> None:
    with Visit(browser, published / "notebooks" / "small.html") as visit:
        buttons = visit.page.locator(".dropdown-launch-buttons a")
        assert [link.get_attribute("href") for link in buttons.all()] == [
            f"https://mybinder.org/v2/gh/{ADDRESS}/main?urlpath=lab/tree/notebooks/small.ipynb",
            f"https://colab.research.google.com/github/{ADDRESS}/blob/colab/notebooks/small.ipynb",
        ]
        assert visit.wrong == []
        icons = ".dropdown-launch-buttons img"
        assert visit.page.eval_on_selector_all(icons, "i => i.every(one => one.naturalWidth)")


@pytest.mark.browser
def test_no_launch_buttons_on_text_or_without_the_address(published: Path, plain: Path) -> None:
    # the scripts that the pages load may know the words
    assert "mybinder" not in (published / "page.html").read_text()
    assert "mybinder" not in (plain / "notebooks" / "small.html").read_text()


def test_an_address_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.setenv("THREEREGIME_REPOSITORY", "https://github.com/a/b")
    with pytest.raises(ConfigError, match=r"github\.com/a/b' is not allowed: owner/n"):
        importlib.import_module("launch_buttons").repository()


def test_the_download_is_the_notebook(plain: Path, small: Path, browser: Any) -> None:
    page = plain / "notebooks" / "small.html"
    with Visit(browser, page) as visit:
        link = visit.page.locator(".dropdown-download-buttons a").first.get_attribute("href")
    source = small / "notebooks" / "small.ipynb"
    assert (page.parent / link).resolve().read_bytes() == source.read_bytes()


def test_colab_copies_begin_with_one_cell_more(tmp_path: Path) -> None:
    script = ROOT / "tools" / "colab.py"
    subprocess.run([sys.executable, script, ADDRESS, tmp_path], check=True)
    copies = {path.name for path in (tmp_path / "notebooks").iterdir()}
    assert copies == {path.name for path in notebooks.notebook_paths().values()}
    copy = json.loads((tmp_path / "notebooks" / "figure_02.ipynb").read_text())
    first, *rest = copy["cells"]
    original = json.loads((ROOT / "notebooks" / "figure_02.ipynb").read_text())
    assert rest == original["cells"]
    text = "".join(first["source"])
    assert f"git clone --quiet --depth 1 https://github.com/{ADDRESS} /content/threeregime" in text
    pinned = (ROOT / "requirements.txt").read_text().splitlines()
    installed = re.findall(r"\S+==\S+", text)
    assert len(installed) == 4
    assert set(installed) <= set(pinned)


def test_binder_installs_the_lock_without_what_is_for_gpus() -> None:
    folder = ROOT / ".binder"
    assert (folder / "runtime.txt").read_text().strip() in ("python-3.11", "python-3.12")
    assert (folder / "postBuild").stat().st_mode & 0o111
    script = (folder / "postBuild").read_text()
    left_out = re.search(r"grep -Ev '(.+)' requirements\.lock", script)
    assert left_out
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    gone = {line.partition("==")[0] for line in lock if re.match(left_out[1], line)}
    gone = {name for name in gone if not name.startswith("    --hash=sha256:")}
    assert {"nvidia-cublas", "triton"} <= gone
    assert all(re.match(r"cuda-|nvidia-|triton$", name) for name in gone)


def test_workflow_gives_the_address_and_asks_for_no_more_than_it_needs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "pages.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    jobs = workflow["jobs"]
    assert jobs["book"]["env"] == {"THREEREGIME_REPOSITORY": "${{ github.repository }}"}
    assert "permissions" not in jobs["book"]
    assert jobs["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    used = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in used)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")))
def test_workflows_pin_their_actions_and_may_only_read(path: Path) -> None:
    """A tag can be moved to other code; the version beside the commit is for readers."""
    text = path.read_text(encoding="utf-8")
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action) for action in used)


def test_dependencies_are_checked_on_a_schedule() -> None:
    path = ROOT / ".github" / "workflows" / "dependencies.yml"
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    # YAML reads the key `on` as true.
    assert workflow[True]["schedule"]
    (*_, audit) = workflow["jobs"]["audit"]["steps"]
    assert "--requirement requirements.lock" in audit["run"]


# --- the book on paper ----------------------------------------------------------------------------


def test_pdf_has_every_page_and_an_outline(plain: Path, small: Path, browser: Any) -> None:
    path = pdf.print_book(browser, out=small, root=small)
    assert path == small / "_build" / "threeregime.pdf"
    content = path.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", content)) == 3  # each chapter begins a new one
    titles = set(re.findall(rb"/Title \(([^)]*)\)", content))  # of the outline
    assert {b"First page", b"Second page", b"A notebook"} <= titles
    assert b"file://" not in content  # links lead to places in the PDF


def test_no_browser_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ThreeRegimeError, match=r"no browser.*install one of chromium") as caught:
        pdf.find_chromium()
    assert "\n" not in str(caught.value)
