"""Version, date and commit at the foot of every page."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from threeregime._paths import ROOT
from threeregime.book import build


def version() -> str:
    """Return the version of the package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def write_foot(app: Sphinx, config: Config) -> None:
    """Add a line to the theme's foot of pages."""
    commit, date = build.revision(Path(app.srcdir))
    line = f"Version {version()}, {date}, commit <code>{commit}</code>"
    options = {"extra_footer": f'<p class="revision">{line}</p>'}
    config.html_theme_options = {**config.html_theme_options, **options}


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("config-inited", write_foot)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
