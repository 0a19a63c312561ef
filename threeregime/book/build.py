"""Build the pages of the book with Sphinx, and check that they need no network."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from threeregime._paths import PACKAGE, ROOT
from threeregime.book.execution import run_all
from threeregime.book.kernel_server import environment
from threeregime.errors import ThreeRegimeError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Pages may link to the network; they may not load anything from there.
FETCH = re.compile(
    r"<(?:script|img|iframe|link(?! rel=.canonical))\b[^>]*?(?:src|href)=\"(?:https?:)?//[^\"]*"
)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
SPHINX = "threeregime.book.sphinx_build"
# Folders below the project's that no page depends on; hidden ones are left out as well.
NO_SOURCES = {"_build", "__pycache__", "data", "runs", "tests"}
# Variables of the environment that pages depend on.
VARIABLES = ("THREEREGIME_REPOSITORY",)


def page_names(root: Path = ROOT) -> list[str]:
    """Return all pages in ``_toc.yml``, without their suffixes."""
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    return re.findall(r"'(?:root|file)': '([^']+)'", str(toc))


def build_book(execute: bool = True, out: Path | None = None, root: Path = ROOT) -> Path:
    """Run the notebooks and build the book as HTML that needs no network.

    Nothing is built if nothing that the pages depend on has changed.

    Args:
        execute: run the notebooks whose inputs changed; otherwise show them as they are stored.
        out: folder of the build (default ``book``); the pages go to ``_build/html`` below it.
        root: folder of the project.

    Returns:
        Path of ``index.html``.

    Raises:
        ThreeRegimeError: a notebook failed, Sphinx warned, a page is missing or would fetch
            something.
    """
    if execute:
        run_all(root)
        draw_pictures(root / "book" / "images")
    folder = (out or root / "book").resolve() / "_build"
    html, stamp = folder / "html", folder / "html.sha256"
    sources, names = _digest(root), page_names(root)
    complete = all((html / f"{name}.html").exists() for name in ["index", *names])
    if not (complete and stamp.exists() and stamp.read_text() == sources):
        stamp.unlink(missing_ok=True)
        run_sphinx("html", out, root)
    check_pages(html, names)
    stamp.write_text(sources)
    return html / "index.html"


def run_sphinx(builder: str, out: Path | None = None, root: Path = ROOT) -> Path:
    """Build the pages with a builder of Jupyter Book: ``html``, or ``singlehtml`` for one page.

    Returns:
        Folder of the pages, named after the builder, in ``_build`` below ``out``.

    Raises:
        ThreeRegimeError: Sphinx failed or warned.
    """
    out = (out or root / "book").resolve()
    folder, log = out / "_build" / builder, out / "_build" / "build.log"
    # Sphinx keeps the pages of deleted files, and does not notice that a number glued from another
    # page changed: every build starts afresh.
    shutil.rmtree(folder, ignore_errors=True)
    options = ["--path-output", str(out), "--all", "--warningiserror", "--keep-going", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", SPHINX, "build", str(root), "--builder", builder, *options],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    text = COLOR.sub("", done.stdout + done.stderr)
    log.write_text(text)
    if done.returncode:
        line = re.search(r"^.*(?:WARNING|ERROR|Error).*$", text, re.MULTILINE)
        what = f": {line[0].strip()}" if line else ""
        raise ThreeRegimeError(f"the book was not built{what} (see {log})")
    return folder


def draw_pictures(folder: Path) -> None:
    """Draw the pictures of the README, unless they show the shipped tables as they are.

    Delete a picture to have it drawn again after a change of how figures are drawn.
    """
    # Slow to import, and not needed to run notebooks.
    from threeregime import claims, figures

    studies = {name: claims.registered_study(name) for name in claims.load_registration().studies}
    complete = {name: study for name, study in studies.items() if study is not None}
    marks = {name: study.tables.id.mark for name, study in complete.items() if study.tables.id}
    _draw_picture(
        folder / "regimes.png",
        marks["figure_02"],
        lambda: figures.regime_map(complete["figure_02"].diagram),
    )
    _draw_picture(
        folder / "claims.png",
        hashlib.sha256(" ".join(marks.values()).encode()).hexdigest()[:12],
        lambda: figures.forest(claims.judge_claims()),
    )


def _draw_picture(path: Path, source: str, draw: Callable[[], Figure]) -> None:
    """Draw a picture, unless the one that there is says that it is of the same source."""
    from PIL import Image

    if path.exists():
        with Image.open(path) as picture:
            if picture.info.get("Source") == source:
                return
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().savefig(path, dpi=110, metadata={"Software": None, "Source": source})


def check_pages(html: Path, names: Iterable[str]) -> None:
    """Check that all pages are there and load nothing from the network.

    Args:
        html: folder of the pages.
        names: of the pages, without their suffixes.

    Raises:
        ThreeRegimeError: names the first page that is missing or would fetch something.
    """
    for page in ["index", *names]:
        path = html / f"{page}.html"
        if not path.exists():
            raise ThreeRegimeError(f"the book was built without {path}")
        if address := FETCH.search(path.read_text(encoding="utf-8")):
            raise ThreeRegimeError(f"{path} would fetch from the network: {address[0]}")


def revision(root: Path = ROOT) -> tuple[str, str]:
    """Return the commit of a project and its date, each "unknown" where it is no repository."""
    command = ["git", "log", "-1", "--abbrev=12", "--format=%h %cs"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        # A project without a history may lie inside a repository of its user's.
        if not (root / ".git").exists():
            return "unknown", "unknown"
        commit, date = done.stdout.split()
    except (OSError, subprocess.CalledProcessError, ValueError):
        return "unknown", "unknown"
    return commit, date


def _digest(root: Path) -> str:
    """Return the SHA-256 of everything that pages depend on: project, package and environment."""
    variables = (os.environ.get(name, "") for name in VARIABLES)
    settings = [sys.version, *revision(root), *variables]
    digest = hashlib.sha256("\0".join(settings).encode())
    for folder in sorted({root, PACKAGE, ROOT / "book"}):
        for directory, names, files in os.walk(folder):
            names[:] = sorted(n for n in names if n not in NO_SOURCES and not n.startswith("."))
            for file in sorted(files):
                path = Path(directory, file)
                digest.update(f"{path}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()
