"""Figures of the case studies: heating, selection of nets, SAM, and accuracy of Algorithm 1.

As in `threeregime.figures.diagrams`: one column wide, closed when returned, legible without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from threeregime.analysis import METRIC_FORMATS, Array, PhaseDiagram, format_value, mean
from threeregime.figures import style

BOX: Any = {"fill": False, "ec": "black", "lw": 1.8, "zorder": 6, "clip_on": False}


@style.attach_tables
def heating(diagrams: Mapping[str, PhaseDiagram]) -> Figure:
    """Draw LMC at the coldest temperature and the effect of raising it; Algorithm 1's loads boxed.

    Args:
        diagrams: by heading, two per row (the paper's Figures 3 and 15).
    """
    columns = min(2, len(diagrams))
    rows = -(-len(diagrams) // columns)
    heights = {"height_ratios": [1, 1.35] * rows}
    with style.canvas(2 * rows, columns, 4.6 * rows, gridspec_kw=heights) as (fig, axes):
        changes = {name: _changes(diagram) for name, diagram in diagrams.items()}
        # Logarithmic, since changes of half a point matter beside those of ten.
        largest = style.colour_scale(changes.values(), centred=True).vmax or 1.0
        norm = colors.SymLogNorm(0.5, vmin=-largest, vmax=largest)
        for k, (name, diagram) in enumerate(diagrams.items()):
            above, below = axes[2 * (k // columns) : 2 * (k // columns) + 2, k % columns]
            boxed = np.flatnonzero(diagram.grid("lmc")[-1] < diagram.lmc_threshold)
            _draw_coldest_lmc(above, diagram, boxed)
            above.set_title(name, loc="left")
            mesh = _draw_changes(below, diagram, changes[name], norm, boxed)
            values = [x for x in (-30, -10, -3, -1, 0, 1, 3, 10, 30) if abs(x) <= largest]
            bar = fig.colorbar(mesh, ax=below, pad=0.02, aspect=20)
            bar.set_ticks(values, labels=[_signed(x, "d") if x else "0" for x in values])
            bar.minorticks_off()
        for ax in axes.T.ravel()[2 * len(diagrams) :]:
            ax.set_visible(False)
    return fig


def _signed(value: float, form: str) -> str:
    """Format a number with its sign, with a minus sign instead of a hyphen."""
    return f"{value:+{form}}".replace("-", "−")


def _changes(diagram: PhaseDiagram) -> Array:
    """Test error minus that of the coldest cell of the load, in points, without the coldest."""
    error = 100 * diagram.grid("test_error")
    changes: Array = error[:-1] - error[-1]
    return changes


def _draw_coldest_lmc(ax: Axes, diagram: PhaseDiagram, boxed: NDArray[np.intp]) -> None:
    positions = np.arange(len(diagram.loads)) + 0.5
    lmc, low, high = (diagram.grid(f"lmc{end}")[-1] for end in ("", "_low", "_high"))
    shades = [style.COLOURS["I"] if j in boxed else "0.7" for j in range(len(positions))]
    ax.bar(positions, lmc, 0.6, color=shades)
    bars = np.clip(np.stack([lmc - low, high - lmc]), 0, None)
    ax.errorbar(positions, lmc, bars, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
    ax.axhline(0, color="black", lw=0.6)
    ax.axhline(diagram.lmc_threshold, color="black", lw=1, ls=(0, (4, 2)))
    bottom, top = ax.get_ylim()
    for j in boxed:
        ax.add_patch(Rectangle((j + 0.06, bottom), 0.88, top - bottom, **BOX))
    ax.set_ylim(bottom, top)
    ax.set_xlim(0, len(positions))
    style.ticks(ax, "x", diagram.load, diagram.loads)
    coldest = format_value(diagram.temperature, diagram.temperatures[-1])
    ax.set_ylabel(f"LMC at {coldest} {diagram.temperature.replace('_', ' ')}")


def _draw_changes(
    ax: Axes, diagram: PhaseDiagram, change: Array, norm: colors.Normalize, boxed: NDArray[np.intp]
) -> QuadMesh:
    mesh = ax.pcolormesh(np.ma.masked_invalid(change), cmap="RdBu_r", norm=norm, rasterized=True)
    ax.set_ylim(len(change), 0)
    for (i, j), value in np.ndenumerate(change):
        if np.isfinite(value) and len(change) <= 10:
            dark = abs(2 * float(norm(value)) - 1) > 0.6
            style.cell_text(ax, i, j, _signed(value, ".1f"), dark, size=6.5)
    for j in boxed:
        ax.add_patch(Rectangle((j + 0.06, 0), 0.88, len(change), **BOX))
    style.label_load(ax, diagram)
    style.ticks(ax, "y", diagram.temperature, diagram.temperatures[:-1])
    ax.set_ylabel(f"{style.axis_label(diagram.temperature)}, → hot")
    ax.set_title("Change of test error (points)", loc="left")
    return mesh


@style.attach_tables
def comparison(
    groups: Mapping[str, Mapping[str, PhaseDiagram]],
    load: float,
    metrics: Sequence[str] = ("test_error", "lmc", "cka_softmax"),
) -> Figure:
    """Draw metrics over the temperature at one load, one line per diagram with 95 % intervals.

    Args:
        groups: rows of panels by heading, each with the diagrams to compare by name.
        load: one of their loads.
        metrics: columns of panels.
    """
    with style.canvas(len(groups), len(metrics), 2.6 * len(groups) + 0.4) as (fig, axes):
        for row, (heading, diagrams) in zip(axes, groups.items(), strict=True):
            for ax, metric in zip(row, metrics, strict=True):
                for k, (name, diagram) in enumerate(diagrams.items()):
                    _draw_line(ax, diagram, metric, diagram.loads.index(load), k, name)
                first = next(iter(diagrams.values()))
                style.label_temperature(ax, first)
                ax.set_title(first.column_title(metric), loc="left")
                ax.grid(alpha=0.3, lw=0.5)
                if metric == "lmc":
                    ax.axhline(first.lmc_threshold, **style.THRESHOLD)
            row[0].set_ylabel(heading)
        handles = axes[0, 0].get_legend_handles_labels()[0]
        style.legend_below(fig, handles, len(handles))
    return fig


def _draw_line(
    ax: Axes, diagram: PhaseDiagram, metric: str, column: int, k: int, name: str
) -> None:
    factor, positions = METRIC_FORMATS[metric][1], np.arange(len(diagram.temperatures))
    value, low, high = (
        factor * diagram.grid(f"{metric}{end}")[:, column] for end in ("", "_low", "_high")
    )
    look = style.line(k)
    ax.fill_between(positions, low, high, color=look["color"], alpha=0.18, lw=0)
    ax.plot(positions, value, ms=3.5, lw=1.3, label=name, **look)


@style.attach_tables
def sam_radius(diagram: PhaseDiagram, choices: pd.DataFrame) -> Figure:
    """Draw the test error without SAM, at the largest radius and at that of highest CKA; and CKA.

    Args:
        diagram: over SAM's rho.
        choices: of the rule "CKA", as returned by `threeregime.algorithms.replay_rules`.
    """
    none, largest = len(diagram.temperatures) - 1, 0
    error = diagram.by_seed["test_error"]
    bars = {
        "no SAM": error[:, none],
        f"rho = {diagram.temperatures[largest]:g}": error[:, largest],
        "rho of highest CKA": _error_of_rule(choices, "CKA", diagram),
    }
    cka = diagram.grid("cka_softmax")
    with style.canvas(1, 2, 3.4) as (fig, axes):
        left, right = axes[0]
        for k, (name, values) in enumerate(bars.items()):
            positions = np.arange(len(diagram.loads)) + 0.27 * (k - 1)
            left.bar(
                positions,
                100 * mean(values, 0),
                0.25,
                color=style.LINES[k],
                label=name,
                hatch=("", "//", "..")[k],
                edgecolor="white",
                lw=0,
            )
            _draw_seeds(left, positions, 100 * values)
        left.set_ylim(bottom=0)
        left.set_title(f"(a) {diagram.column_title('test_error')}", loc="left")
        style.ticks(left, "x", diagram.load, diagram.loads, offset=0)
        left.set_xlabel(style.axis_label(diagram.load))
        left.legend(frameon=False, fontsize=7.5)
        norm = style.colour_scale([cka])
        title = "(b) CKA, its highest starred"
        style.heat_map(right, diagram, cka, "cividis", norm, title, names=False)
        for j in range(len(diagram.loads)):
            if np.isfinite(cka[:, j]).any():
                best = int(np.nanargmax(cka[:, j]))
                right.plot(j + 0.5, best + 0.5, "*", ms=11, mfc="white", mec="black", zorder=7)
    return fig


@style.attach_tables
def selection(choices: pd.DataFrame, diagrams: Mapping[str, PhaseDiagram], rule: str) -> Figure:
    """Draw the test error of the net that each rule prunes, over the load; the colour is its LMC.

    Args:
        choices: as returned by `threeregime.algorithms.replay_rules`, with a column ``study``
            that names the diagram.
        diagrams: by heading, one panel each.
        rule: the paper's rule, to compare with the usual choice and grid search.
    """
    keys = ["study", "rule", next(iter(diagrams.values())).load]
    norm = style.colour_scale([choices.groupby(keys)["lmc"].mean().to_numpy(dtype=float)])
    with style.canvas(1, len(diagrams), 3.6) as (fig, axes):
        for ax, (heading, diagram) in zip(axes[0], diagrams.items(), strict=True):
            rows = choices[choices["study"] == heading]
            points = _draw_choices(ax, rows, diagram, {"best dense net": "X", rule: "s"}, norm)
            ax.set_title(heading, loc="left")
        fig.colorbar(points, ax=axes[0, -1], pad=0.02, aspect=28, label="LMC of the chosen net")
        style.legend_below(fig, axes[0, 0].get_legend_handles_labels()[0])
    return fig


def _draw_choices(
    ax: Axes,
    choices: pd.DataFrame,
    diagram: PhaseDiagram,
    markers: Mapping[str, str],
    norm: colors.Normalize,
) -> PathCollection:
    """Draw the choices of rules with a marker each, and those of grid search as lines."""
    positions, loads = np.arange(len(diagram.loads)), list(diagram.loads)
    for k, (name, marker) in enumerate(markers.items()):
        values, x = 100 * _error_of_rule(choices, name, diagram), positions + 0.16 * (2 * k - 1)
        _draw_seeds(ax, x, values)
        points = ax.scatter(
            x,
            mean(values, 0),
            s=46,
            c=choices[choices["rule"] == name].groupby(diagram.load)["lmc"].mean()[loads],
            cmap="cividis",
            norm=norm,
            marker=marker,
            edgecolors="black",
            linewidths=0.7,
            zorder=3,
            label=name,
        )
    best = mean(100 * _error_of_rule(choices, "grid search", diagram), 0)
    line: Any = {"colors": "black", "lw": 1.3, "ls": (0, (3, 1.5))}
    ax.hlines(best, positions - 0.4, positions + 0.4, label="grid search", **line)
    style.label_load(ax, diagram, offset=0)
    ax.set_ylabel(diagram.column_title("test_error"))
    ax.grid(axis="y", alpha=0.3, lw=0.5)
    return points


def _error_of_rule(choices: pd.DataFrame, rule: str, diagram: PhaseDiagram) -> Array:
    """Test error of a rule's choices by dense seed and load [D, L], a fraction."""
    rows = choices[choices["rule"] == rule]
    table = rows.groupby(["dense_seed", diagram.load])["test_error"].mean().unstack()
    errors: Array = table[list(diagram.loads)].to_numpy()
    return errors


def _draw_seeds(ax: Axes, positions: NDArray[np.floating[Any]], values: Array) -> None:
    """Draw a dot per dense seed: of three, an interval would be wider than the figure."""
    for row in values:
        ax.plot(positions, row, ".", ms=4, color="black", alpha=0.55, zorder=4)


def accuracy(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Draw the share of cells where Algorithm 1 is right, over the threshold of LMC.

    Args:
        curves: by heading, as returned by `threeregime.algorithms.accuracy_table`.
        threshold: the threshold to mark.
    """
    with style.canvas(1, len(curves), 2.8, sharey=True) as (fig, axes):
        for ax, (heading, table) in zip(axes[0], curves.items(), strict=True):
            x, colour = table["threshold"], style.LINES[0]
            low, high, middle = (100 * table[name] for name in ("low", "high", "accuracy"))
            ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
            ax.plot(x, middle, "-o", ms=3.5, color=colour, label="Algorithm 1")
            for k, name in enumerate(("always hotter", "never hotter"), start=1):
                ax.plot(x, 100 * table[name], color=style.LINES[k], ls=style.DASHES[k], label=name)
            ax.axvline(threshold, **style.THRESHOLD)
            ax.set_xlabel("Threshold of LMC")
            ax.set_title(heading, loc="left")
            ax.set_ylim(0, 102)
            ax.grid(alpha=0.3, lw=0.5)
        axes[0, 0].set_ylabel("Cells told rightly (%)")
        style.legend_below(fig, axes[0, 0].get_legend_handles_labels()[0])
    return fig
