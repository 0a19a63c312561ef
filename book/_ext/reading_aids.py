"""Pages for readers with a screen reader or a keyboard.

- Pictures drawn by a notebook get an alternative text: what the function that draws them draws, by
  its docstring, and the tables that it was drawn from. ``book/pictures.toml`` describes those that
  a notebook draws itself.
- Names and roles that the theme's pages lack or have wrong.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
import tomllib
from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from threeregime import figures

DRAWN = re.compile(r"\bfigures\.(\w+)\(")
DESCRIPTIONS = Path("book") / "pictures.toml"
STUDIES = 3  # named in a description; of more, their number
PAGES = (
    # The arrow that folds a part of the table of contents.
    (
        '<summary><span class="toctree-toggle"',
        '<summary aria-label="Pages of this part"><span class="toctree-toggle"',
    ),
    # Roles that browsers no longer know.
    (' role="doc-biblioentry"', ""),
    ('<div role="list" class="citation-list">', '<div class="citation-list">'),
)


@functools.cache
def descriptions(root: Path) -> dict[str, str]:
    """Return what the pictures of all notebooks show, by the SHA-256 of the picture.

    Raises:
        ExtensionError: a picture has no description.
    """
    path = root / DESCRIPTIONS
    drawn = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {
        digest: text
        for notebook in sorted((root / "notebooks").glob("*.ipynb"))
        for digest, text in _described(notebook, iter(drawn.get(notebook.stem, [])))
    }


def _described(notebook: Path, drawn: Iterator[str]) -> Iterator[tuple[str, str]]:
    """Yield digest and description of the pictures in a notebook; no two have the same."""
    seen: Counter[str] = Counter()
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        pictures = [out for out in cell.get("outputs", []) if "image/png" in out.get("data", {})]
        function = DRAWN.search("".join(cell["source"]))
        for number, picture in enumerate(pictures, 1):
            text = _purpose(function[1]) if function else next(drawn, None)
            if text is None:
                raise ExtensionError(f"{DESCRIPTIONS} lacks a picture of {notebook.name}")
            count = f" ({number} of {len(pictures)})" if len(pictures) > 1 else ""
            content = b64decode(picture["data"]["image/png"])
            description = f"{text}{count}{_studies(picture)}"
            seen[description] += 1
            again = f" Picture {seen[description]}." if seen[description] > 1 else ""
            yield hashlib.sha256(content).hexdigest(), f"{description}.{again}"


def _purpose(function: str) -> str:
    """Return what a function of the room ``figures`` draws: the first sentence of its docstring."""
    line = (inspect.getdoc(getattr(figures, function)) or "").partition("\n")[0]
    text = line.removeprefix("Draw ").rstrip(".")
    return text[:1].upper() + text[1:]


def _studies(picture: dict[str, Any]) -> str:
    """Return the studies that a picture was drawn from, in words."""
    facts = picture.get("metadata", {}).get("threeregime", {})
    names = [f"{t['experiment']}, {t['scale']}" for t in facts.get("tables", [])]
    names += ["the paper's published values"] if facts.get("paper") else []
    if len(names) > STUDIES:
        return f". Of {len(names)} studies"
    return f". Of {'; '.join(names)}" if names else ""


def describe_pictures(app: Sphinx, tree: nodes.document, page: str) -> None:
    """Write the descriptions into the pictures of a page."""
    texts = descriptions(Path(app.srcdir))
    for picture in tree.findall(nodes.image):
        text = texts.get(Path(picture["uri"]).stem)
        if text and "alt" not in picture:
            picture["alt"] = text


def repair_pages(app: Sphinx, error: Exception | None) -> None:
    """Write names and roles into all pages."""
    if error or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        text = before = path.read_text(encoding="utf-8")
        for wrong, right in PAGES:
            text = text.replace(wrong, right)
        if text != before:
            path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before pictures without a description get that of their heading."""
    app.connect("doctree-resolved", describe_pictures, priority=400)
    app.connect("build-finished", repair_pages)
    app.add_js_file("reading_aids.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
