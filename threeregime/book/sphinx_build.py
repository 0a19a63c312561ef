"""The command of Jupyter Book with two processes, for which it has no option.

Usage: ``python -m threeregime.book.sphinx_build build FOLDER OPTIONS``.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

PROCESSES = 2
# Extensions that do not declare whether pages may be read in several processes. The first numbers
# sections after all pages are read, the second changes pages for LaTeX alone.
UNDECLARED = ("sphinx_multitoc_numbering", "sphinx_jupyterbook_latex")


def declare_safe(name: str) -> None:
    """Have an extension of Sphinx declare that pages may be read in several processes."""
    extension = importlib.import_module(name)
    setup = extension.setup

    @functools.wraps(setup)
    def declaring(app: Any) -> dict[str, Any]:
        return {**(setup(app) or {}), "parallel_read_safe": True}

    vars(extension)["setup"] = declaring


def main() -> None:
    """Run the command."""
    from jupyter_book import sphinx
    from jupyter_book.cli.main import main as command

    for name in UNDECLARED:
        declare_safe(name)
    sphinx.build_sphinx = functools.partial(sphinx.build_sphinx, jobs=PROCESSES)
    command()


if __name__ == "__main__":
    main()
