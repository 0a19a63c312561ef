"""Smaller pages: files that no page loads are deleted, and pictures are compressed.

Pictures get a palette of 256 colors without dithering. They consist of lines, letters and areas of
few colors: on average a pixel changes by less than one step of 255, and a file shrinks to a third.
The downloads keep the original pictures.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx

# Maps for debugging scripts and styles, and sources of translations.
UNUSED = ("*.map", "*.po", "*.mo")
COLORS = 256
THREADS = 2  # Pillow compresses outside of Python's lock


def drop_unused(static: Path) -> None:
    """Delete what pages do not load, and fonts that exist in a smaller format as well."""
    fonts = [font for font in static.rglob("*.ttf") if font.with_suffix(".woff2").exists()]
    for path in [*fonts, *(path for pattern in UNUSED for path in static.rglob(pattern))]:
        path.unlink()


def shrink(path: Path) -> None:
    """Store a PNG with a palette, unless it has one, is transparent, or would grow."""
    with Image.open(path) as picture:
        opaque = picture.mode == "RGB" or (
            picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
        )
        if not opaque:
            return
        small = picture.convert("RGB").quantize(COLORS, dither=Image.Dither.NONE)
    before = path.read_bytes()
    small.save(path, optimize=True)
    if path.stat().st_size >= len(before):
        path.write_bytes(before)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Delete unused files and shrink pictures after the last page is written."""
    if error or app.builder.format != "html":
        return
    drop_unused(Path(app.outdir) / "_static")
    pictures = (Path(app.outdir) / app.builder.imagedir).glob("*.png")
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(shrink, pictures))


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after extensions that write pictures at the end of the build."""
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
