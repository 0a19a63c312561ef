"""Leaves out of the built pages what no reader ever loads, and stores their pictures in less room.

Pictures become 256 colours without dithering. Ours are lines, letters and fields of few colours: on
average a pixel moves by less than one step of 255, and a file shrinks to a third. The downloads
keep the pictures as they were drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image
from sphinx.application import Sphinx

# Maps for debugging scripts and styles, and sources of translations.
UNUSED = ("*.map", "*.po", "*.mo")
COLOURS = 256


def drop_unused(static: Path) -> None:
    """Delete what pages do not load, and every font that lies there in a shorter form too."""
    fonts = [font for font in static.rglob("*.ttf") if font.with_suffix(".woff2").exists()]
    for path in [*fonts, *(path for pattern in UNUSED for path in static.rglob(pattern))]:
        path.unlink()


def shrink(path: Path) -> None:
    """Store a PNG with a palette, unless it has one, shows through, or would grow by it."""
    with Image.open(path) as picture:
        opaque = picture.mode == "RGB" or (
            picture.mode == "RGBA" and picture.getextrema()[3] == (255, 255)
        )
        if not opaque:
            return
        small = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    before = path.read_bytes()
    small.save(path, optimize=True)
    if path.stat().st_size >= len(before):
        path.write_bytes(before)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """After the last page is written, go over all files."""
    if error or app.builder.format != "html":
        return
    drop_unused(Path(app.outdir) / "_static")
    for path in (Path(app.outdir) / app.builder.imagedir).glob("*.png"):
        shrink(path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, after those that write pictures when the build has finished."""
    app.connect("build-finished", lighten, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
