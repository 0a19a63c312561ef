"""The book: run its notebooks, build its pages, check that they need no network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from threeregime.analysis import PhaseDiagram
from threeregime.book.notebooks import ROOT, environment, execute_all, run_notebook
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import load_experiment
from threeregime.figures import regime_map
from threeregime.results import load_results

__all__ = ["build", "check", "pages", "run_notebook", "sphinx"]

# Pages may link to the network; they may not load anything from there.
FETCH = re.compile(
    r"<(?:script|img|iframe|link(?! rel=.canonical))\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def pages(root: Path = ROOT) -> list[str]:
    """Every page in ``_toc.yml``, without its suffix."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    return re.findall(r"'(?:root|file)': '([^']+)'", str(toc))


def build(execute: bool = True, out: Path | None = None, root: Path = ROOT) -> Path:
    """Run the notebooks and build the book as HTML that needs no network.

    Args:
        execute: run the notebooks whose inputs changed; otherwise show them as they are.
        out: folder for the build (default ``book``); the pages go to ``_build/html`` below it.
        root: the project's folder.

    Returns:
        Path of ``index.html``.

    Raises:
        ThreeRegimeError: a notebook failed, Sphinx warned, a page is missing or would fetch
            something.
    """
    if execute:
        execute_all(root)
        draw_picture(root / "book" / "images" / "regimes.png")
    html = sphinx("html", out, root)
    check(html, pages(root))
    return html / "index.html"


def sphinx(builder: str, out: Path | None = None, root: Path = ROOT) -> Path:
    """Build the pages by one of Jupyter Book's builders: ``html``, or ``singlehtml`` for one page.

    Returns:
        Folder of the pages, named after the builder, in ``_build`` below ``out``.

    Raises:
        ThreeRegimeError: Sphinx failed or warned.
    """
    out = (out or root / "book").resolve()
    folder, log = out / "_build" / builder, out / "_build" / "build.log"
    # Sphinx keeps the pages of deleted files, and does not see that a number glued from another
    # page changed: every build starts afresh.
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--path-output", str(out), "--all", "--warningiserror", "--keep-going", "--quiet"]
    code = "from jupyter_book.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "build", str(root), "--builder", builder, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    text = COLOUR.sub("", done.stdout + done.stderr)
    log.write_text(text)
    if done.returncode:
        found = re.search(r"^.*(?:WARNING|ERROR|Error).*$", text, re.MULTILINE)
        what = f": {found[0].strip()}" if found else ""
        raise ThreeRegimeError(f"the book was not built{what} (see {log})")
    return folder


def draw_picture(path: Path) -> None:
    """Draw the picture that the README shows, from the shipped results."""
    diagram = PhaseDiagram.from_results(load_results(load_experiment("figure_02", "digits")))
    path.parent.mkdir(parents=True, exist_ok=True)
    regime_map(diagram).savefig(path, dpi=110, metadata={"Software": None})


def check(html: Path, expected: list[str]) -> None:
    """Check that all pages are there and load nothing from the network.

    Raises:
        ThreeRegimeError: names the first page that is missing or would fetch something.
    """
    for page in ["index", *expected]:
        path = html / f"{page}.html"
        if not path.exists():
            raise ThreeRegimeError(f"the book was built without {path}")
        if found := FETCH.search(path.read_text(encoding="utf-8")):
            raise ThreeRegimeError(f"{path} would fetch from the network: {found[0]}")
