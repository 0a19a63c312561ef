"""The Jupyter Book: run its notebooks, build its pages, print it, and write its downloads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threeregime.book.build import build_book, page_names
    from threeregime.book.downloads import write_tables
    from threeregime.book.execution import run_all
    from threeregime.book.notebooks import notebook_paths, run_notebook
    from threeregime.book.pdf import open_browser, print_book

__all__ = [
    "build_book",
    "notebook_paths",
    "open_browser",
    "page_names",
    "print_book",
    "run_all",
    "run_notebook",
    "write_tables",
]

# Imported on first use: a notebook's kernel starts in this package and must import nothing else of
# it, since what it imports is what the notebook depends on.
_MODULES = {
    "build_book": "build",
    "notebook_paths": "notebooks",
    "open_browser": "pdf",
    "page_names": "build",
    "print_book": "pdf",
    "run_all": "execution",
    "run_notebook": "notebooks",
    "write_tables": "downloads",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module."""
    if name in _MODULES:
        return getattr(import_module(f"threeregime.book.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
