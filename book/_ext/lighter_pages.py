"""Smaller pages: what no page shows is deleted, and pictures are compressed.

Pages without equations do not load MathJax.

The theme's script of icons holds two thousand, of which pages show a few: the others are deleted.

Pictures get a palette of 256 colors without dithering. They consist of lines, letters and areas of
few colors: on average a pixel changes by less than one step of 255, and a file shrinks to a third.
So do those in the notebooks that can be downloaded; the notebooks of the project keep theirs.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain

# Maps for debugging scripts and styles, sources of translations, templates of the theme.
UNUSED = ("*.map", "*.po", "*.mo", "*webpack-macros.html")
ICONS = Path("scripts") / "fontawesome.js"
# An icon in that script: "name":[width,height,[aliases],"code","path"]
ICON = re.compile(r'"?\b([\w-]+)"?:\[\d+,\d+,\[([^\[\]]*)\],"[0-9a-f]+","[^"]*"\],?')
SHOWN = re.compile(r"\bfa-([a-z0-9-]+)")
COLORS = 256
PNG = "image/png"
THREADS = 2  # Pillow compresses outside of Python's lock


class MathOfPages(MathDomain):
    """Sphinx's math domain, where a page has the equations that stand on it.

    In Sphinx's own, a page also has those of all pages below it in the table of contents, so that
    the first page loads two megabytes of MathJax and shows no equation.
    """

    def has_equations(self, docname: str | None = None) -> bool:
        """Return whether a page, or any page, has equations."""
        known: dict[str, bool] = self.data["has_equations"]
        return any(known.values()) if docname is None else known.get(docname, False)


def drop_unused(static: Path) -> None:
    """Delete what pages do not load, and fonts that exist in a smaller format as well."""
    fonts = [font for font in static.rglob("*.ttf") if font.with_suffix(".woff2").exists()]
    for path in [*fonts, *(path for pattern in UNUSED for path in static.rglob(pattern))]:
        path.unlink()


def drop_icons(static: Path) -> None:
    """Delete the icons that neither a page nor another script names."""
    path = static / ICONS
    if not path.exists():
        return
    scripts = [*static.glob("*.js"), *path.parent.glob("*.js")]
    shown = {
        name
        for file in [*static.parent.rglob("*.html"), *scripts]
        if file != path
        for name in SHOWN.findall(file.read_text(encoding="utf-8"))
    }

    def kept(icon: re.Match[str]) -> str:
        names = {icon[1], *re.findall(r'"([^"]+)"', icon[2])}
        return icon[0] if names & shown else ""

    path.write_text(ICON.sub(kept, path.read_text(encoding="utf-8")), encoding="utf-8")


@functools.cache  # a page and its download have the same picture
def with_palette(png: bytes) -> bytes:
    """Return a PNG with a palette, unless it has one, is transparent, or would grow."""
    with Image.open(io.BytesIO(png)) as picture:
        opaque = picture.mode == "RGB" or (
            picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
        )
        if not opaque:
            return png
        small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    stored = io.BytesIO()
    small.save(stored, "PNG", optimize=True)
    return min(png, stored.getvalue(), key=len)


def shrink_picture(path: Path) -> None:
    """Store a PNG with a palette."""
    path.write_bytes(with_palette(path.read_bytes()))


def shrink_notebook(path: Path) -> None:
    """Store the pictures in a notebook with palettes."""
    text = path.read_text(encoding="utf-8")
    if PNG not in text:
        return
    notebook = json.loads(text)
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get(PNG):
                small = with_palette(base64.b64decode(png))
                output["data"][PNG] = base64.b64encode(small).decode()
    text = json.dumps(notebook, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Delete unused files and shrink pictures after the last page is written."""
    if error or app.builder.format != "html":
        return
    drop_unused(Path(app.outdir) / "_static")
    drop_icons(Path(app.outdir) / "_static")
    pictures = (Path(app.outdir) / app.builder.imagedir).glob("*.png")
    notebooks = (Path(app.outdir) / "_sources").rglob("*.ipynb")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(shrink_picture, pictures))
        list(pool.map(shrink_notebook, notebooks))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after extensions that write pictures at the end of the build."""
    app.add_domain(MathOfPages, override=True)
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
