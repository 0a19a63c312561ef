"""Figures of phase diagrams, to be read at the width of a book's column (about 740 pixels).

Every function returns a closed matplotlib figure: a notebook shows it once, a script saves it. The
colour maps are perceptually uniform, the regimes' colours suit colour-blind readers, and no figure
relies on colour alone: regimes are outlined and named as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from threeregime.analysis import (
    METRIC_FORMATS,
    PROBABILITY_COLUMNS,
    PhaseDiagram,
    compare_cells,
    format_value,
)
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment
from threeregime.figures import style
from threeregime.figures.style import COLOURS, STYLE

MAPS = {
    "test_error": "viridis",
    "normalized_test_error": "viridis",
    "lmc": "cividis",
    "cka_softmax": "cividis",
}
MARKERS = {"I": "v", "II-A": "o", "II-B": "s"}


@style.attach_tables
def phase_diagram(diagram: PhaseDiagram, paper: PhaseDiagram | None = None) -> Figure:
    """Draw the four panels of the paper's Figure 2: test error, normalised error, LMC and CKA.

    Args:
        diagram: the diagram.
        paper: a second diagram, drawn to the right of it on the same colour scales.
    """
    sides = [diagram] if paper is None else [diagram, paper]
    rows = 2 * len(sides)
    with style.canvas(rows, 2, 3.1 * rows + 0.4) as (fig, axes):
        panels = axes.reshape(len(MAPS), len(sides))
        for letter, name, row in zip("abcd", MAPS, panels, strict=True):
            label, factor = sides[0].column_title(name), METRIC_FORMATS[name][1]
            values = [factor * side.grid(name) for side in sides]
            norm = style.colour_scale(values)
            for ax, side, value in zip(row, sides, values, strict=True):
                head = f"{side.title}\n" if paper and letter == "a" else ""
                thresholds = {"lmc": side.lmc_threshold, "cka_softmax": side.cka_threshold}
                title = f"{head}({letter}) {label}"
                style.heat_map(ax, side, value, MAPS[name], norm, title, thresholds.get(name))
                if name == "normalized_test_error":
                    style.draw_transitions(ax, side)
        for ax in axes[:-1].flat:
            ax.set_xlabel("")
        for ax in axes[:, 1]:
            ax.set_ylabel("")
        style.legend_below(fig, style.legend_handles(sides))
    return fig


@style.attach_tables
def regime_map(diagram: PhaseDiagram) -> Figure:
    """Draw the regimes in one panel; the number in each cell is its test error in percent.

    The colour is the regime, its opacity the regime's probability over the seeds (1 without seeds).
    """
    with style.canvas(height=0.28 * len(diagram.temperatures) + 1.4) as (fig, axes):
        _draw_regimes(axes[0, 0], diagram, size=7.5)
        style.legend_below(fig, _regime_handles(diagram))
        axes[0, 0].set_title(f"Regimes, {diagram.title}; {_cell_words(diagram)}", loc="left")
    return fig


@style.attach_tables
def beside_paper(diagram: PhaseDiagram, paper: PhaseDiagram | Experiment) -> Figure:
    """Draw the regimes of a diagram beside the paper's.

    Args:
        diagram: the diagram, at the left.
        paper: the paper's diagram or, where its values are not published, its experiment, of which
            the axes are drawn.
    """
    rows = max(len(diagram.temperatures), len(paper.temperatures))
    with style.canvas(1, 2, 0.2 * rows + 1.9) as (fig, axes):
        ours, theirs = axes[0]
        _draw_regimes(ours, diagram, size=7)
        ours.set_title(f"this book, {diagram.title}", loc="left")
        if isinstance(paper, PhaseDiagram):
            _draw_regimes(theirs, paper, size=5.5)
        else:
            _sketch_axes(theirs, paper)
        theirs.set_title("the paper", loc="left")
        style.legend_below(fig, _regime_handles(diagram))
        fig.suptitle(_cell_words(diagram), x=0.01, ha="left", size=STYLE["font.size"])
    return fig


def _draw_regimes(ax: Axes, diagram: PhaseDiagram, size: float) -> None:
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    image = np.ones((*regime.shape, 3))
    for name, column in PROBABILITY_COLUMNS.items():
        probability = diagram.grid(column) if diagram.has_seeds else np.ones(regime.shape)
        cells = regime == name
        image[cells] = 1 - probability[cells, None] * (1 - np.array(colors.to_rgb(COLOURS[name])))
    ax.pcolormesh(image, rasterized=True)
    style.label_regimes(ax, diagram, lower=0.5)
    style.draw_transitions(ax, diagram, across=0.85)
    dark = image**2.2 @ (0.2126, 0.7152, 0.0722) < 0.18
    for (i, j), value in np.ndenumerate(100 * error):
        if np.isfinite(value):
            style.cell_text(ax, i, j, f"{value:.1f}", bool(dark[i, j]), size=size)


def _regime_handles(diagram: PhaseDiagram) -> list[Artist]:
    patches = [Patch(color=c, label=f"Regime {name}") for name, c in COLOURS.items()]
    return [*patches, *style.legend_handles([diagram])]


def _cell_words(diagram: PhaseDiagram) -> str:
    name = diagram.column_title("test_error").replace("Test", "test")
    return f"numbers: {name}" + (
        "; paler: less certain over the seeds" if diagram.has_seeds else ""
    )


def _sketch_axes(ax: Axes, experiment: Experiment) -> None:
    """Draw the empty grid of an experiment."""
    rows, columns = len(experiment.temperatures), len(experiment.loads)
    ax.pcolormesh(np.ones((rows, columns, 3)), edgecolors="#CCCCCC", lw=0.4)
    style.label_axes(ax, experiment)
    words = "values not published\nas numbers"
    ax.text(columns / 2, rows / 2, words, ha="center", va="center", path_effects=style.halo(4))


@style.attach_tables
def difference(diagram: PhaseDiagram, reference: PhaseDiagram) -> Figure:
    """Draw two diagrams and their difference at the cells in common.

    Cells are matched as in `threeregime.analysis.compare_cells`: equal loads, and epochs as
    fractions of the whole dense run. Both diagrams of a row share a colour scale.

    Raises:
        ThreeRegimeError: If the axes differ or no cell is in common.
    """
    table = compare_cells(diagram, reference)
    loads = sorted(table[diagram.load].unique())
    reverse = diagram.temperatures[0] > diagram.temperatures[-1]
    temperatures = sorted(table["temperature"].unique(), reverse=reverse)
    relative = diagram.temperature == "epochs"
    headings = (diagram.title, reference.title, "difference")
    with style.canvas(4, 3, 9.2, sharex=True, sharey=True) as (fig, axes):
        for i, (row, name) in enumerate(zip(axes, MAPS, strict=True)):
            label, factor = diagram.column_title(name), METRIC_FORMATS[name][1]
            grids = [
                factor
                * table.pivot(index="temperature", columns=diagram.load, values=column)
                .reindex(index=temperatures, columns=loads)
                .to_numpy()
                for column in (name, f"{name}_reference", f"{name}_difference")
            ]
            common = (MAPS[name], style.colour_scale(grids[:2]))
            scales = (common, common, ("RdBu_r", style.colour_scale(grids[2:], centred=True)))
            for k, (ax, grid, (colours, norm)) in enumerate(zip(row, grids, scales, strict=True)):
                values = np.ma.masked_invalid(grid)
                mesh = ax.pcolormesh(values, cmap=colours, norm=norm, rasterized=True)
                if k:
                    fig.colorbar(mesh, ax=ax, pad=0.03, aspect=24)
                ax.set_title(f"{headings[k]}\n{label}" if i == 0 else label, loc="left")
        ax = axes[0, 0]
        ax.set_ylim(len(temperatures), 0)
        style.ticks(ax, "x", diagram.load, loads)
        labels = [round(100 * t) for t in temperatures] if relative else temperatures
        style.ticks(ax, "y", diagram.temperature, labels)
        for ax in axes[-1]:
            ax.set_xlabel(style.axis_label(diagram.load))
        label = style.axis_label(diagram.temperature)
        label += " (% of the whole dense run)" if relative else ""
        fig.supylabel(f"{label}, cold ← → hot", size=STYLE["font.size"])
    return fig


def barrier(curves: Mapping[str, ArrayLike]) -> Figure:
    """Draw the training error along the line between two retrained copies, which LMC measures.

    Args:
        curves: name to training errors [pairs, points], or [points], at evenly spaced t from 0 to
            1; as fractions. The pairs are drawn behind their mean.

    Raises:
        ThreeRegimeError: If there are no curves or one has fewer than two points.
    """
    if not curves:
        raise ThreeRegimeError("barrier needs at least one set of curves")
    with style.canvas(height=3.6) as (fig, axes):
        ax = axes[0, 0]
        for k, (name, curve) in enumerate(curves.items()):
            errors = 100 * np.atleast_2d(np.asarray(curve, dtype=float))
            if errors.shape[1] < 2:
                raise ThreeRegimeError(f"the curve {name!r} needs at least two points")
            t = np.linspace(0, 1, errors.shape[1])
            colour = plt.colormaps["viridis"](0.8 * k / max(1, len(curves) - 1))
            ax.plot(t, errors.T, color=colour, lw=0.7, alpha=0.35)
            label = f"{name} ({len(errors)} pair{'s' if len(errors) > 1 else ''})"
            ax.plot(t, errors.mean(0), color=colour, lw=2, marker="o", ms=3.5, label=label)
        ax.set_ylim(-0.02 * ax.get_ylim()[1])
        ax.set_xlabel("t along the line from one retrained copy (t = 1) to the other (t = 0)")
        ax.set_ylabel("Training error (%)")
        ax.set_xlim(0, 1)
        ax.grid(alpha=0.3, lw=0.5)
        ax.legend(frameon=False)
    return fig


@style.attach_tables
def error_curves(diagram: PhaseDiagram, loads: Sequence[float] | None = None) -> Figure:
    """Draw the test error over the temperature, one line per load, with 95 % intervals.

    Args:
        diagram: the diagram; markers show each cell's regime.
        loads: the loads to draw; None: five, from the lowest to the highest.

    Raises:
        ThreeRegimeError: If the diagram does not have a load.
    """
    if loads is None:
        n = len(diagram.loads)
        loads = [diagram.loads[i] for i in np.unique(np.linspace(0, n - 1, 5).round().astype(int))]
    for x in loads:
        if x not in diagram.loads:
            known = ", ".join(f"{y:g}" for y in diagram.loads)
            raise ThreeRegimeError(f"{diagram.load} = {x:g} is not in the diagram: one of {known}")
    error, regime = 100 * diagram.grid("test_error"), diagram.grid("regime")
    no_nets = diagram.grid("no_nets").astype(bool)
    low, high = (100 * diagram.grid(f"test_error_{end}") for end in ("low", "high"))
    positions = np.arange(len(diagram.temperatures))
    with style.canvas(height=4) as (fig, axes):
        ax = axes[0, 0]
        for k, x in enumerate(loads):
            j = diagram.loads.index(x)
            colour = plt.colormaps["viridis"](0.8 * k / max(1, len(loads) - 1))
            ax.fill_between(positions, low[:, j], high[:, j], color=colour, alpha=0.18, lw=0)
            ax.plot(positions, error[:, j], color=colour, lw=1.4)
            for kind, marker in MARKERS.items():
                cells = regime[:, j] == kind
                ax.plot(positions[cells], error[cells, j], marker, color=colour, ms=4.5)
            cells = no_nets[:, j]
            ax.plot(positions[cells], error[cells, j], "x", color=colour, ms=5)
            finite = np.flatnonzero(np.isfinite(error[:, j]))
            if finite.size:
                last, label = int(finite[-1]), format_value(diagram.load, x)
                font = {"color": colour, "weight": "bold", "va": "center"}
                ax.text(last + 0.25, error[last, j], label, **font)
        style.label_temperature(ax, diagram)
        ax.set_xlim(-0.4, len(positions) + 0.2)
        ax.set_ylabel(diagram.column_title("test_error"))
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3, lw=0.5)
        handles = [
            Line2D([], [], ls="", marker=m, color="0.3", ms=4.5, label=f"Regime {name}")
            for name, m in MARKERS.items()
        ]
        if no_nets.any():
            mark: Any = {"ls": "", "marker": "x", "color": "0.3", "ms": 5}
            handles.append(Line2D([], [], label="nets that learned too little", **mark))
        style.legend_below(fig, handles)
        band = "; bands: 95 % interval over seeds" if diagram.has_seeds else ""
        ax.set_title(f"{diagram.title}, one line a {diagram.load}{band}", loc="left")
    return fig
