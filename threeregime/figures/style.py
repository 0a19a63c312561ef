"""The parts that the figures of `threeregime.figures.diagrams` are put together from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from threeregime.analysis import (
    Array,
    PhaseDiagram,
    favourable_transitions,
    regime_boundaries,
    regime_label_positions,
)
from threeregime.experiments import AXES
from threeregime.results import attach_facts

WIDTH = 7.4  # inches, at 100 pixels to the inch on the page
STYLE: Any = {
    "figure.dpi": 150,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# Okabe and Ito's colours: they differ in hue and in lightness for all kinds of colour vision.
COLOURS = {"I": "#D55E00", "II-A": "#009E73", "II-B": "#0072B2"}
# Theirs for lines, in an order in which neighbours differ in lightness.
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKS = ("o", "s", "^", "D", "v", "P")
EDGES: dict[str, Any] = {"I|II": "-", "II-A|II-B": (0, (2.5, 1.2))}
_MOST_TICKS = 20
_Given = ParamSpec("_Given")


@contextmanager
def canvas(
    rows: int = 1, columns: int = 1, height: float = 4, **options: Any
) -> Iterator[tuple[Figure, NDArray[Any]]]:
    """A figure of a column's width in this project's style, with its axes [rows, columns].

    It is closed on the way out, error or not: a notebook then shows it once, as a cell's value.
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options
        )
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def attach_tables(draw: Callable[_Given, Figure]) -> Callable[_Given, Figure]:
    """Have the figures of a function say which tables its diagrams were made from."""

    @functools.wraps(draw)
    def drawn(*args: _Given.args, **kwargs: _Given.kwargs) -> Figure:
        found = list(_diagrams([*args, *kwargs.values()]))
        names = {d.tables_id: asdict(d.tables_id) for d in found if d.tables_id}
        paper = any(d.tables_id is None for d in found)
        return attach_facts(draw(*args, **kwargs), tables=list(names.values()), paper=paper)

    return drawn


def _diagrams(given: Iterable[Any]) -> Iterator[PhaseDiagram]:
    """The phase diagrams among arguments, in whatever holds them."""
    for one in given:
        if isinstance(one, PhaseDiagram):
            yield one
        elif isinstance(one, Mapping):
            yield from _diagrams(one.values())
        elif isinstance(one, (list, tuple)):
            yield from _diagrams(one)


def halo(width: float = 2.4) -> list[Any]:
    """A white rim, which keeps black lines and letters legible on any colour."""
    return [patheffects.withStroke(linewidth=width, foreground="white")]


def heat_map(
    ax: Axes,
    diagram: PhaseDiagram,
    values: Array,
    colours: str,
    norm: colors.Normalize,
    title: str,
    marked: float | None = None,
    named: bool = True,
) -> None:
    """Draw one panel: cells, boundaries, regime names and a colour bar with a threshold marked.

    Args:
        ax: where.
        diagram: gives axes, boundaries and names.
        values: the cells [T, L], hot to cold.
        colours: name of the colour map.
        norm: the colour scale.
        title: above the panel.
        marked: a value to mark on the colour bar.
        named: whether to write the regimes' names.
    """
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, rasterized=True)
    label_axes(ax, diagram, named=named)
    ax.set_title(title, loc="left")
    assert ax.figure is not None
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, aspect=28)
    if marked is not None and norm.vmin is not None and norm.vmin < marked < (norm.vmax or 0):
        bar.ax.axhline(marked, color="black", lw=1.3, path_effects=halo())


def label_axes(ax: Axes, diagram: PhaseDiagram, lower: float = 0.0, named: bool = True) -> None:
    """Axes in the paper's words, regime boundaries and names, on a panel in units of cells.

    Args:
        ax: the panel.
        diagram: what it shows.
        lower: how far below the middle of its cell to write a regime's name.
        named: whether to write the names.
    """
    ax.set_xlim(0, len(diagram.loads))
    ax.set_ylim(len(diagram.temperatures), 0)
    ticks(ax, "x", diagram.load, diagram.loads)
    ticks(ax, "y", diagram.temperature, diagram.temperatures)
    ax.set_xlabel(f"{axis_label(diagram.load)}, high load ← → low load")
    ax.set_ylabel(f"{axis_label(diagram.temperature)}, cold ← → hot")
    for kind, segments in regime_boundaries(diagram).items():
        edges = list(segments)
        ax.add_collection(LineCollection(edges, colors="white", linewidths=3.2))
        style = [EDGES[kind]]
        ax.add_collection(LineCollection(edges, colors="black", linewidths=1.5, linestyles=style))
    centred: Any = {"ha": "center", "va": "center", "path_effects": halo(3), "zorder": 5}
    for name, (x, y) in regime_label_positions(diagram).items() if named else ():
        ax.text(x, y + lower, name, weight="bold", size=10, **centred)


def ticks(ax: Axes, which: str, axis: str, values: Sequence[float], offset: float = 0.5) -> None:
    """One tick a value, thinned to what can be read."""
    step = -(-len(values) // _MOST_TICKS)
    at = range(0, len(values), step)
    factor = 100 if AXES[axis].percent else 1
    shown = [f"{factor * values[i]:g}" for i in at]
    setter = ax.set_xticks if which == "x" else ax.set_yticks
    setter([i + offset for i in at], shown)
    ax.tick_params(axis="both", length=2, pad=2)


def axis_label(axis: str) -> str:
    """Name of a temperature or load with its unit."""
    return f"{AXES[axis].label} (%)" if AXES[axis].percent else AXES[axis].label


def draw_transitions(ax: Axes, diagram: PhaseDiagram, across: float = 0.5) -> None:
    """Draw the favourable transitions from cell to cell, at ``across`` of the cells' width."""
    for change in favourable_transitions(diagram):
        if change is not None:
            x = diagram.loads.index(change.load) + across
            start, end = (diagram.temperatures.index(t) + 0.5 for t in (change.start, change.end))
            style = {"arrowstyle": "-|>", "lw": 1.6, "color": "black", "mutation_scale": 11}
            arrow = ax.annotate("", (x, end), (x, start), arrowprops={**style, "shrinkA": 0})
            assert arrow.arrow_patch is not None
            arrow.arrow_patch.set_path_effects(halo(3.2))


def legend_handles(diagrams: Iterable[PhaseDiagram], with_arrows: bool = True) -> list[Line2D]:
    """Legend handles: both boundaries with their thresholds, and the arrows."""
    diagrams = list(diagrams)
    lmc = " and ".join(dict.fromkeys(f"{d.lmc_threshold:g}".replace("-", "−") for d in diagrams))
    cka = " and ".join(dict.fromkeys(f"{d.cka_threshold:.3f} ({d.cka_rule})" for d in diagrams))
    line: Any = {"color": "black", "lw": 1.5}
    handles = [
        Line2D([], [], ls=EDGES["I|II"], label=f"I | II: LMC = {lmc}", **line),
        Line2D([], [], ls=EDGES["II-A|II-B"], label=f"II-A | II-B: CKA = {cka}", **line),
    ]
    if with_arrows and any(change for d in diagrams for change in favourable_transitions(d)):
        mark: Any = {"marker": "$\\uparrow$", "markersize": 8, "ls": "", "color": "black"}
        handles.append(Line2D([], [], label="favourable transition", **mark))
    return handles


def colour_scale(values: Iterable[Array], centred: bool = False) -> colors.Normalize:
    """Colour scale over several grids, about 0 if centred; (0, 1) where there is no number."""
    flat = np.concatenate([v[np.isfinite(v)] for v in values])
    if not flat.size:
        return plt.Normalize(0, 1)
    low, high = float(flat.min()), float(flat.max())
    if centred:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return plt.Normalize(low, high if high > low else low + 1e-9)
