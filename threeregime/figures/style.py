"""Style and common parts of the figures: canvas, axes, colours, boundaries and legends."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors, patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from threeregime.analysis import (
    Array,
    PhaseDiagram,
    favourable_transitions,
    regime_boundaries,
    regime_label_positions,
)
from threeregime.experiments import AXES, Experiment
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
# Okabe and Ito's colours, which differ in hue and lightness for all kinds of colour vision.
COLOURS = {"I": "#D55E00", "II-A": "#009E73", "II-B": "#0072B2"}
# Their colours for lines, ordered so that neighbours differ in lightness.
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES: Any = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
MARKS = ("o", "s", "^", "D", "v", "P")
THRESHOLD: Any = {"color": "black", "lw": 0.9, "ls": (0, (4, 2))}
EDGES: dict[str, Any] = {"I|II": "-", "II-A|II-B": (0, (2.5, 1.2))}
NO_NETS: Any = {"facecolor": "#BBBBBB", "edgecolor": "#555555", "hatch": "///", "lw": 0}
_MAX_TICKS = 20
_Args = ParamSpec("_Args")


@contextmanager
def canvas(
    rows: int = 1, columns: int = 1, height: float = 4, **options: Any
) -> Iterator[tuple[Figure, NDArray[Any]]]:
    """Open a figure of a column's width in this project's style, with its axes [rows, columns].

    It is closed at the end, also after an error, so that a notebook shows it only once, as the
    value of a cell.
    """
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(
            rows, columns, figsize=(WIDTH, height), layout="constrained", squeeze=False, **options
        )
        try:
            yield fig, axes
        finally:
            plt.close(fig)


def attach_tables(draw: Callable[_Args, Figure]) -> Callable[_Args, Figure]:
    """Mark the figures of a function with the tables of the diagrams among its arguments."""

    @functools.wraps(draw)
    def draw_marked(*args: _Args.args, **kwargs: _Args.kwargs) -> Figure:
        diagrams = list(_diagrams([*args, *kwargs.values()]))
        names = {d.tables_id: asdict(d.tables_id) for d in diagrams if d.tables_id}
        paper = any(d.tables_id is None for d in diagrams)
        return attach_facts(draw(*args, **kwargs), tables=list(names.values()), paper=paper)

    return draw_marked


def _diagrams(arguments: Iterable[Any]) -> Iterator[PhaseDiagram]:
    """The phase diagrams among arguments, also inside mappings, lists and tuples."""
    for argument in arguments:
        if isinstance(argument, PhaseDiagram):
            yield argument
        elif isinstance(argument, (Mapping, list, tuple)):
            yield from _diagrams(argument.values() if isinstance(argument, Mapping) else argument)


def halo(width: float = 2.4) -> list[Any]:
    """White outline that keeps black lines and letters legible on any colour."""
    return [patheffects.withStroke(linewidth=width, foreground="white")]


def heat_map(
    ax: Axes,
    diagram: PhaseDiagram,
    values: Array,
    colours: str,
    norm: colors.Normalize,
    title: str,
    threshold: float | None = None,
    names: bool = True,
) -> None:
    """Draw the values of cells [T, L], with regime boundaries and names and a colour bar.

    ``colours`` is the name of a colour map; ``threshold`` is marked on the colour bar.
    """
    mesh = ax.pcolormesh(np.ma.masked_invalid(values), cmap=colours, norm=norm, rasterized=True)
    label_regimes(ax, diagram, names=names)
    ax.set_title(title, loc="left")
    assert ax.figure is not None
    bar = ax.figure.colorbar(mesh, ax=ax, pad=0.02, aspect=28)
    if threshold is not None and norm.vmin is not None and norm.vmin < threshold < (norm.vmax or 0):
        bar.ax.axhline(threshold, color="black", lw=1.3, path_effects=halo())


def label_axes(ax: Axes, diagram: PhaseDiagram | Experiment) -> None:
    """Set limits, ticks and labels of a panel in units of cells."""
    ax.set_xlim(0, len(diagram.loads))
    ax.set_ylim(len(diagram.temperatures), 0)
    label_load(ax, diagram)
    ticks(ax, "y", diagram.temperature, diagram.temperatures)
    ax.set_ylabel(f"{axis_label(diagram.temperature)}, cold ← → hot")


def label_load(ax: Axes, diagram: PhaseDiagram | Experiment, offset: float = 0.5) -> None:
    """Set ticks and label of a horizontal axis of loads."""
    ticks(ax, "x", diagram.load, diagram.loads, offset)
    ax.set_xlabel(f"{axis_label(diagram.load)}, high load ← → low load")


def label_temperature(ax: Axes, diagram: PhaseDiagram) -> None:
    """Set ticks and label of a horizontal axis of temperatures."""
    ticks(ax, "x", diagram.temperature, diagram.temperatures, offset=0)
    ax.set_xlabel(f"{axis_label(diagram.temperature)}, hot ← → cold")


def line(k: int) -> dict[str, Any]:
    """Marker, colour and dashes of the k-th line of a panel."""
    return {
        "marker": MARKS[k % len(MARKS)],
        "color": LINES[k % len(LINES)],
        "ls": DASHES[k % len(DASHES)],
    }


def label_regimes(ax: Axes, diagram: PhaseDiagram, lower: float = 0.0, names: bool = True) -> None:
    """Label the axes of a panel in units of cells, and draw regime boundaries and names.

    ``lower`` is the distance of a name below the middle of its cell.
    """
    label_axes(ax, diagram)
    for row, column in np.argwhere(diagram.grid("no_nets").astype(bool)):
        ax.add_patch(Rectangle((column, row), 1, 1, **NO_NETS))
    for kind, segments in regime_boundaries(diagram).items():
        edges = list(segments)
        ax.add_collection(LineCollection(edges, colors="white", linewidths=3.2))
        dashes = [EDGES[kind]]
        ax.add_collection(LineCollection(edges, colors="black", linewidths=1.5, linestyles=dashes))
    centred: Any = {"ha": "center", "va": "center", "path_effects": halo(3), "zorder": 5}
    for name, (x, y) in regime_label_positions(diagram).items() if names else ():
        ax.text(x, y + lower, name, weight="bold", size=10, **centred)


def ticks(ax: Axes, which: str, axis: str, values: Sequence[float], offset: float = 0.5) -> None:
    """Set one tick per value, or fewer if there are too many to read."""
    step = -(-len(values) // _MAX_TICKS)
    index = range(0, len(values), step)
    factor = 100 if AXES[axis].percent else 1
    labels = [f"{factor * values[i]:g}" for i in index]
    set_ticks = ax.set_xticks if which == "x" else ax.set_yticks
    set_ticks([i + offset for i in index], labels)
    ax.tick_params(axis="both", length=2, pad=2)


def axis_label(axis: str) -> str:
    """Name of a temperature or load with its unit."""
    return f"{AXES[axis].label} (%)" if AXES[axis].percent else AXES[axis].label


def draw_transitions(ax: Axes, diagram: PhaseDiagram, across: float = 0.5) -> None:
    """Draw the favourable transitions as arrows, at a fraction ``across`` of the cells' width."""
    for change in favourable_transitions(diagram):
        if change is not None:
            x = diagram.loads.index(change.load) + across
            start, end = (diagram.temperatures.index(t) + 0.5 for t in (change.start, change.end))
            props = {"arrowstyle": "-|>", "lw": 1.6, "color": "black", "mutation_scale": 11}
            arrow = ax.annotate("", (x, end), (x, start), arrowprops={**props, "shrinkA": 0})
            assert arrow.arrow_patch is not None
            arrow.arrow_patch.set_path_effects(halo(3.2))


def legend_handles(diagrams: Iterable[PhaseDiagram], with_arrows: bool = True) -> list[Artist]:
    """Legend handles: both boundaries with their thresholds, and the arrows."""
    diagrams = list(diagrams)
    lmc = " and ".join(dict.fromkeys(f"{d.lmc_threshold:g}".replace("-", "−") for d in diagrams))
    cka = " and ".join(dict.fromkeys(f"{d.cka_threshold:.3f} ({d.cka_rule})" for d in diagrams))
    black: Any = {"color": "black", "lw": 1.5}
    handles: list[Artist] = [
        Line2D([], [], ls=EDGES["I|II"], label=f"I | II: LMC = {lmc}", **black),
        Line2D([], [], ls=EDGES["II-A|II-B"], label=f"II-A | II-B: CKA = {cka}", **black),
    ]
    if any(d.cells["no_nets"].any() for d in diagrams):
        handles.append(Rectangle((0, 0), 1, 1, label="nets that learned too little", **NO_NETS))
    if with_arrows and any(change for d in diagrams for change in favourable_transitions(d)):
        mark: Any = {"marker": "$\\uparrow$", "markersize": 8, "ls": "", "color": "black"}
        handles.append(Line2D([], [], label="favourable transition", **mark))
    return handles


def legend_below(fig: Figure, handles: Sequence[Any], columns: int = 3) -> None:
    """Put a legend below all panels."""
    fig.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def cell_text(ax: Axes, row: int, column: int, text: str, dark: bool, size: float) -> None:
    """Write a text into a cell, white on a dark one."""
    colour = "white" if dark else "black"
    ax.text(column + 0.5, row + 0.5, text, color=colour, size=size, ha="center", va="center")


def colour_scale(values: Iterable[Array], centred: bool = False) -> colors.Normalize:
    """Colour scale over several grids, about 0 if centred; (0, 1) if all values are NaN."""
    flat = np.concatenate([v[np.isfinite(v)] for v in values])
    if not flat.size:
        return plt.Normalize(0, 1)
    low, high = float(flat.min()), float(flat.max())
    if centred:
        high = max(abs(low), abs(high)) or 1.0
        low = -high
    return plt.Normalize(low, high if high > low else low + 1e-9)
