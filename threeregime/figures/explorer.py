"""The explorer: every shipped phase diagram cell by cell, in a page that needs no running Python.

Python lays the numbers out once (`threeregime.figures.explorer_data`); readers use them in their
browser, through the scripts in ``web/``. The same scripts run in JupyterLab and in the rendered
notebook, through anywidget (`Explorer`), and in any other page (`embed_html`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from threeregime._paths import WEB
from threeregime.analysis import LMC_THRESHOLD, Study, Summary
from threeregime.errors import ThreeRegimeError
from threeregime.figures.explorer_data import explorer_data
from threeregime.results import shipped_tables

SCALES = ("clutter", "mini", "paper")


def widget_script() -> str:
    """The widget's script: its parts as one module, since modules in a page cannot import."""
    parts = ("grid.js", "drawing.js", "explorer.js")
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in parts)


def _as_text(value: Any, widget: object = None) -> str:
    """JSON as one string, since stored notebooks put every number of a list on its own line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class Explorer(anywidget.AnyWidget):
    """The widget. Its state is in its traits, which `ipywidgets.jslink` can link to others.

    Attributes:
        grid: the numbers, as returned by `threeregime.figures.explorer_data.explorer_data`.
        experiment: key of the diagram shown.
        row: the cell's temperature, counted from the hottest.
        column: the cell's load, counted from the lowest value.
        lmc_threshold: a cell below it is in Regime I.
        cka_threshold: a connected cell at or above it is in II-B.
        paper: whether the paper's values are drawn over ours.
    """

    _esm = widget_script()
    _css = (WEB / "explorer.css").read_text(encoding="utf-8")

    grid = traitlets.Dict().tag(sync=True, to_json=_as_text)
    experiment = traitlets.Unicode().tag(sync=True)
    row = traitlets.Int().tag(sync=True)
    column = traitlets.Int().tag(sync=True)
    lmc_threshold = traitlets.Float(LMC_THRESHOLD).tag(sync=True)
    cka_threshold = traitlets.Float().tag(sync=True)
    paper = traitlets.Bool(False).tag(sync=True)

    def __repr__(self) -> str:
        return f"Explorer({self.experiment!r}, row={self.row}, column={self.column})"


STATE = ("experiment", "row", "column", "lmc_threshold", "cka_threshold", "paper")


def make_explorer(
    studies: Sequence[Study],
    temperature: float | None = None,
    load: float | None = None,
    headline: Summary | None = None,
) -> Explorer:
    """Make the widget for some diagrams, opened at one cell of the first.

    Args:
        studies: the studies to show, in order.
        temperature: of the first cell, rounded to the nearest of the grid; None: the coldest.
        load: of the first cell, rounded to the nearest of the grid; None: the highest load.
        headline: the mean of the headline effect over studies, shown below; None: none is shown.

    Raises:
        ThreeRegimeError: If there are no studies.
    """
    data = explorer_data(studies, headline)
    first = data["diagrams"][0]
    temperatures, loads = first["temperature"]["values"], first["load"]["values"]
    return Explorer(
        grid=data,
        experiment=first["key"],
        row=_nearest(temperatures, temperatures[-1] if temperature is None else temperature),
        column=_nearest(loads, loads[0] if load is None else load),
        lmc_threshold=first["lmc_threshold"],
        cka_threshold=first["cka_threshold"],
    )


def _nearest(values: Sequence[float], value: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - value))


def stored_traits(notebook: Path) -> dict[str, Any]:
    """Read the traits of the `Explorer` stored in an executed notebook.

    Raises:
        ThreeRegimeError: If there is none.
    """
    widgets = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("widgets", {})
    for bundle in widgets.values():
        for model in bundle["state"].values():
            if {"grid", *STATE} <= model["state"].keys():
                return {**model["state"], "grid": json.loads(model["state"]["grid"])}
    raise ThreeRegimeError(f"{notebook} holds no explorer: run `threeregime book`")


def shipped_studies(
    lmc_threshold: float = LMC_THRESHOLD,
    cka_threshold: float = 0.0,
    root: Path | None = None,
    scales: Iterable[str] = SCALES,
) -> list[Study]:
    """Return the studies of all experiments of one variant with results, at some scales.

    Results on the JPEG copy of CIFAR-10 are included.
    """
    return [
        Study.from_results(one.experiment, one.results, lmc_threshold, cka_threshold)
        for one in shipped_tables(root, scales=list(scales))
        if len(one.experiment.variants) == 1 and len(one.results.pairs)
    ]


def embed_html(state: Mapping[str, Any]) -> str:
    """Return the explorer as self-contained HTML, to be used once in a page.

    Args:
        state: the traits of an `Explorer`, e.g. from `stored_traits`; others are ignored.
    """
    traits = {name: state[name] for name in ("grid", *STATE)}
    # The text of a script ends at the first "</", also inside JSON.
    data = _as_text(traits).replace("</", r"<\/")
    return "\n".join(
        [
            "<div data-explorer></div>",
            f"<style>{Explorer._css}</style>",
            f'<script type="application/json" id="explorer-grid">{data}</script>',
            f'<script type="module">\n{widget_script()}\nstandalone(document);\n</script>',
        ]
    )
