"""Figures of phase diagrams, made to be read at the width of a book's column (about 740 pixels).

Every function returns a closed matplotlib figure: a notebook shows it once, a script saves it. The
maps are perceptually uniform, the regimes' colours are told apart by the colour-blind, and no
figure rests on colour alone: regimes are outlined and named as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from threeregime.analysis import PROBABILITY_COLUMNS, PhaseDiagram, compare_cells, format_value
from threeregime.analysis.cells import PRINTED
from threeregime.errors import ThreeRegimeError
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
    """The four panels of the paper's Figure 2: test error, normalised test error, LMC and CKA.

    Args:
        diagram: what to draw.
        paper: a second diagram, to the right of it on the same colour scales.
    """
    sides = [diagram] if paper is None else [diagram, paper]
    rows = 2 * len(sides)
    with style.canvas(rows, 2, 3.1 * rows + 0.4) as (fig, axes):
        panels = axes.reshape(len(MAPS), len(sides))
        for letter, name, row in zip("abcd", MAPS, panels, strict=True):
            label, factor = sides[0].column_title(name), PRINTED[name][1]
            values = [factor * side.grid(name) for side in sides]
            norm = style.colour_scale(values)
            for ax, side, value in zip(row, sides, values, strict=True):
                head = f"{side.title}\n" if paper and letter == "a" else ""
                marked = {"lmc": side.lmc_threshold, "cka_softmax": side.cka_threshold}.get(name)
                style.heat_map(
                    ax, side, value, MAPS[name], norm, f"{head}({letter}) {label}", marked
                )
                if name == "normalized_test_error":
                    style.draw_transitions(ax, side)
        for ax in axes[:-1].flat:
            ax.set_xlabel("")
        for ax in axes[:, 1]:
            ax.set_ylabel("")
        fig.legend(
            handles=style.legend_handles(sides), loc="outside lower center", ncols=3, frameon=False
        )
    return fig


@style.attach_tables
def regime_map(diagram: PhaseDiagram) -> Figure:
    """The regimes in one picture; the number in each cell is its test error in percent.

    The colour is the regime, its opacity the regime's probability over the seeds (1 without seeds).
    """
    error, regime = diagram.grid("test_error"), diagram.grid("regime")
    image = np.ones((*regime.shape, 3))
    for name, column in PROBABILITY_COLUMNS.items():
        chance = diagram.grid(column) if diagram.has_seeds else np.ones(regime.shape)
        here = regime == name
        image[here] = 1 - chance[here, None] * (1 - np.array(colors.to_rgb(COLOURS[name])))
    with style.canvas(height=0.28 * len(error) + 1.4) as (fig, axes):
        ax = axes[0, 0]
        ax.pcolormesh(image, rasterized=True)
        style.label_axes(ax, diagram, lower=0.5)
        style.draw_transitions(ax, diagram, across=0.85)
        dark = image**2.2 @ (0.2126, 0.7152, 0.0722) < 0.18
        for (i, j), value in np.ndenumerate(100 * error):
            if np.isfinite(value):
                shade = "white" if dark[i, j] else "black"
                here = (j + 0.5, i + 0.5)
                ax.text(*here, f"{value:.1f}", color=shade, size=7.5, ha="center", va="center")
        patches = [Patch(color=c, label=f"Regime {name}") for name, c in COLOURS.items()]
        handles = [*patches, *style.legend_handles([diagram])]
        fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
        name = diagram.column_title("test_error").replace("Test", "test")
        paler = "; paler: less certain over the seeds" if diagram.has_seeds else ""
        ax.set_title(f"Regimes, {diagram.title}; numbers: {name}{paler}", loc="left")
    return fig


@style.attach_tables
def difference(diagram: PhaseDiagram, reference: PhaseDiagram) -> Figure:
    """Two diagrams and their difference at the cells in common.

    Cells are matched as `threeregime.analysis.transitions.compare` does: equal loads, and epochs as
    fractions of the whole dense run. Both diagrams of a row share a colour scale.

    Raises:
        ThreeRegimeError: other axes, or no cell in common.
    """
    both = compare_cells(diagram, reference)
    loads = sorted(both[diagram.load].unique())
    colder = sorted(both["temperature"].unique())
    order = diagram.temperatures[0] > diagram.temperatures[-1]
    hot_to_cold = colder[::-1] if order else colder
    relative = diagram.temperature == "epochs"
    with style.canvas(4, 3, 9.2, sharex=True, sharey=True) as (fig, axes):
        for i, (row, name) in enumerate(zip(axes, MAPS, strict=True)):
            label, factor = diagram.column_title(name), PRINTED[name][1]
            columns = (name, f"{name}_reference", f"{name}_difference")
            grids = [
                factor
                * both.pivot(index="temperature", columns=diagram.load, values=column)
                .reindex(index=hot_to_cold, columns=loads)
                .to_numpy()
                for column in columns
            ]
            norm, apart = style.colour_scale(grids[:2]), style.colour_scale(grids[2:], centred=True)
            heads = (diagram.title, reference.title, "difference")
            for k, (ax, grid, head) in enumerate(zip(row, grids, heads, strict=True)):
                last = k == 2
                mesh = ax.pcolormesh(
                    np.ma.masked_invalid(grid),
                    cmap="RdBu_r" if last else MAPS[name],
                    norm=apart if last else norm,
                    rasterized=True,
                )
                if k:
                    fig.colorbar(mesh, ax=ax, pad=0.03, aspect=24)
                ax.set_title(f"{head}\n{label}" if i == 0 else label, loc="left")
        ax = axes[0, 0]
        ax.set_ylim(len(hot_to_cold), 0)
        style.ticks(ax, "x", diagram.load, loads)
        shown = [round(100 * t) for t in hot_to_cold] if relative else hot_to_cold
        style.ticks(ax, "y", diagram.temperature, shown)
        for ax in axes[-1]:
            ax.set_xlabel(style.axis_label(diagram.load))
        word = style.axis_label(diagram.temperature)
        word += " (% of the whole dense run)" if relative else ""
        fig.supylabel(f"{word}, cold ← → hot", size=STYLE["font.size"])
    return fig


def barrier(curves: Mapping[str, ArrayLike]) -> Figure:
    """Training error along the line between two retrained copies: what LMC measures.

    Args:
        curves: name to training errors [pairs, points], or [points], at evenly spaced t from 0 to
            1; as fractions. Each gets its mean and, behind it, its pairs.

    Raises:
        ThreeRegimeError: nothing to draw, or curves of fewer than two points.
    """
    if not curves:
        raise ThreeRegimeError("barrier needs at least one set of curves")
    with style.canvas(height=3.6) as (fig, axes):
        ax = axes[0, 0]
        for k, (name, given) in enumerate(curves.items()):
            errors = 100 * np.atleast_2d(np.asarray(given, dtype=float))
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
    """Test error over the temperature, one line a load, with its 95 % interval over seeds.

    Args:
        diagram: what to draw; markers show each cell's regime.
        loads: those to draw; None takes five, from the lowest to the highest.

    Raises:
        ThreeRegimeError: a load that the diagram does not have.
    """
    if loads is None:
        n = len(diagram.loads)
        loads = [diagram.loads[i] for i in np.unique(np.linspace(0, n - 1, 5).round().astype(int))]
    for x in loads:
        if x not in diagram.loads:
            those = ", ".join(f"{y:g}" for y in diagram.loads)
            raise ThreeRegimeError(f"{diagram.load} = {x:g} is not in the diagram: one of {those}")
    error, regime = 100 * diagram.grid("test_error"), diagram.grid("regime")
    low, high = (100 * diagram.grid(f"test_error_{end}") for end in ("low", "high"))
    at = np.arange(len(diagram.temperatures))
    with style.canvas(height=4) as (fig, axes):
        ax = axes[0, 0]
        for k, x in enumerate(loads):
            j = diagram.loads.index(x)
            colour = plt.colormaps["viridis"](0.8 * k / max(1, len(loads) - 1))
            ax.fill_between(at, low[:, j], high[:, j], color=colour, alpha=0.18, lw=0)
            ax.plot(at, error[:, j], color=colour, lw=1.4)
            for kind, marker in MARKERS.items():
                here = regime[:, j] == kind
                ax.plot(at[here], error[here, j], marker, color=colour, ms=4.5)
            known = np.flatnonzero(np.isfinite(error[:, j]))
            if known.size:
                last, label = int(known[-1]), format_value(diagram.load, x)
                ax.text(
                    last + 0.25, error[last, j], label, color=colour, weight="bold", va="center"
                )
        style.ticks(ax, "x", diagram.temperature, diagram.temperatures, offset=0)
        ax.set_xlim(-0.4, len(at) + 0.2)
        ax.set_xlabel(f"{style.axis_label(diagram.temperature)}, hot ← → cold")
        ax.set_ylabel(diagram.column_title("test_error"))
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.3, lw=0.5)
        handles = [
            Line2D([], [], ls="", marker=m, color="0.3", ms=4.5, label=f"Regime {name}")
            for name, m in MARKERS.items()
        ]
        fig.legend(handles=handles, frameon=False, ncols=3, loc="outside lower center")
        band = "; bands: 95 % interval over seeds" if diagram.has_seeds else ""
        ax.set_title(f"{diagram.title}, one line a {diagram.load}{band}", loc="left")
    return fig
