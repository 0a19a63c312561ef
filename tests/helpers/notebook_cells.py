"""Run a notebook's cells in this process, and render what they show."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import IPython.display
import matplotlib.pyplot as plt
import myst_nb
import pytest
from matplotlib.figure import Figure

REPRESENTATIONS = ("_repr_markdown_", "_repr_html_", "_repr_mimebundle_")


def run_cells(path: Path, patch: pytest.MonkeyPatch, **parameters: object) -> str:
    """Run the cells of a notebook, all figures and tables of which are drawn.

    Args:
        path: the notebook.
        patch: replaces what shows something in a notebook, for as long as it lasts.
        parameters: values for some of its parameters.

    Returns:
        The texts of what it shows; what it prints is not among them.
    """
    shown: list[str] = []

    def show(*values: Any, **_: object) -> None:
        shown.extend(_render(value) for value in values)

    def show_figures() -> None:
        show(*(plt.figure(number) for number in plt.get_fignums()))
        plt.close("all")

    patch.setattr(IPython.display, "display", show)
    patch.setattr(plt, "show", show_figures)
    patch.setattr(myst_nb, "glue", lambda name, value, display=True: _render(value))
    code = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    scope: dict[str, Any] = {}
    for position, cell in enumerate(code):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, str(path), "exec"), scope)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), str(path), "eval"), scope)
            show(*([] if value is None else [value]))
        if position == 0:
            assert parameters.keys() <= scope.keys()
            scope.update(parameters)
    plt.close("all")
    return "\n".join(shown)


def _render(value: object) -> str:
    """Return what a notebook shows of a value."""
    if isinstance(value, Figure):
        value.canvas.draw()
        return "\n".join(text.get_text() for text in value.findobj(plt.Text))
    texts = [str(getattr(value, name)()) for name in REPRESENTATIONS if hasattr(value, name)]
    return "\n".join(texts) or repr(value)
