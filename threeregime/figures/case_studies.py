"""Figures of the case studies: tuning, selection, SAM, and what tells the regimes apart.

As in `threeregime.figures.diagrams`: one column wide, closed when returned, legible without colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from threeregime.analysis import Array, PhaseDiagram, format_value, mean
from threeregime.analysis.cells import PRINTED
from threeregime.figures import style

BOX: Any = {"fill": False, "ec": "black", "lw": 1.8, "zorder": 6, "clip_on": False}


@style.attach_tables
def heating(diagrams: Mapping[str, PhaseDiagram]) -> Figure:
    """LMC at the coldest temperature, and what raising it does; Algorithm 1's loads are boxed.

    Args:
        diagrams: by heading, two beside each other (the paper's Figures 3 and 15).
    """
    names, columns = list(diagrams), min(2, len(diagrams))
    rows = -(-len(names) // columns)
    heights = [1, 1.35] * rows
    with style.canvas(2 * rows, columns, 4.6 * rows, gridspec_kw={"height_ratios": heights}) as (
        fig,
        axes,
    ):
        changes = {name: _changes(diagram) for name, diagram in diagrams.items()}
        # Gains of half a point matter beside those of ten.
        most = style.colour_scale(changes.values(), centred=True).vmax or 1.0
        norm = colors.SymLogNorm(0.5, vmin=-most, vmax=most)
        for k, (name, diagram) in enumerate(diagrams.items()):
            above, below = axes[2 * (k // columns) : 2 * (k // columns) + 2, k % columns]
            boxed = np.flatnonzero(diagram.grid("lmc")[-1] < diagram.lmc_threshold)
            _coldest_lmc(above, diagram, boxed)
            above.set_title(name, loc="left")
            mesh = _heated(below, diagram, changes[name], norm, boxed)
            marks = [x for x in (-30, -10, -3, -1, 0, 1, 3, 10, 30) if abs(x) <= most]
            bar = fig.colorbar(mesh, ax=below, pad=0.02, aspect=20)
            bar.set_ticks(marks, labels=[f"{x:+d}".replace("-", "−") if x else "0" for x in marks])
            bar.minorticks_off()
        for ax in axes.T.ravel()[2 * len(names) :]:
            ax.set_visible(False)
    return fig


def _changes(diagram: PhaseDiagram) -> Array:
    """Test error minus that of the coldest cell of the load, in points, without the coldest."""
    error = 100 * diagram.grid("test_error")
    changes: Array = error[:-1] - error[-1]
    return changes


def _coldest_lmc(ax: Axes, diagram: PhaseDiagram, boxed: NDArray[np.intp]) -> None:
    at = np.arange(len(diagram.loads)) + 0.5
    lmc, low, high = (diagram.grid(f"lmc{end}")[-1] for end in ("", "_low", "_high"))
    shades = [style.COLOURS["I"] if j in boxed else "0.7" for j in range(len(at))]
    ax.bar(at, lmc, 0.6, color=shades)
    spread = np.clip(np.stack([lmc - low, high - lmc]), 0, None)
    ax.errorbar(at, lmc, spread, fmt="none", ecolor="black", elinewidth=0.9, capsize=2)
    ax.axhline(0, color="black", lw=0.6)
    ax.axhline(diagram.lmc_threshold, color="black", lw=1, ls=(0, (4, 2)))
    bottom, top = ax.get_ylim()
    for j in boxed:
        ax.add_patch(Rectangle((j + 0.06, bottom), 0.88, top - bottom, **BOX))
    ax.set_ylim(bottom, top)
    ax.set_xlim(0, len(at))
    style.ticks(ax, "x", diagram.load, diagram.loads)
    coldest = format_value(diagram.temperature, diagram.temperatures[-1])
    ax.set_ylabel(f"LMC at {coldest} {diagram.temperature.replace('_', ' ')}")


def _heated(
    ax: Axes, diagram: PhaseDiagram, change: Array, norm: colors.Normalize, boxed: NDArray[np.intp]
) -> QuadMesh:
    mesh = ax.pcolormesh(np.ma.masked_invalid(change), cmap="RdBu_r", norm=norm, rasterized=True)
    ax.set_ylim(len(change), 0)
    for (i, j), value in np.ndenumerate(change):
        if np.isfinite(value) and len(change) <= 10:
            strong = abs(2 * float(norm(value)) - 1) > 0.6
            ax.text(
                j + 0.5,
                i + 0.5,
                f"{value:+.1f}".replace("-", "−"),
                ha="center",
                va="center",
                size=6.5,
                color="white" if strong else "black",
            )
    for j in boxed:
        ax.add_patch(Rectangle((j + 0.06, 0), 0.88, len(change), **BOX))
    style.ticks(ax, "x", diagram.load, diagram.loads)
    style.ticks(ax, "y", diagram.temperature, diagram.temperatures[:-1])
    ax.set_xlabel(f"{style.axis_label(diagram.load)}, high load ← → low load")
    ax.set_ylabel(f"{style.axis_label(diagram.temperature)}, → hot")
    ax.set_title("Change of test error (points)", loc="left")
    return mesh


@style.attach_tables
def comparison(
    groups: Mapping[str, Mapping[str, PhaseDiagram]],
    load: float,
    metrics: Sequence[str] = ("test_error", "lmc", "cka_softmax"),
) -> Figure:
    """Metrics over the temperature at one load, a line a diagram with its 95 % interval.

    Args:
        groups: rows of panels by heading, each with the diagrams to compare by name.
        load: which of their loads.
        metrics: columns of panels.
    """
    with style.canvas(len(groups), len(metrics), 2.6 * len(groups) + 0.4) as (fig, axes):
        for row, (heading, diagrams) in zip(axes, groups.items(), strict=True):
            for ax, metric in zip(row, metrics, strict=True):
                for k, (name, diagram) in enumerate(diagrams.items()):
                    _line(ax, diagram, metric, diagram.loads.index(load), k, name)
                any_one = next(iter(diagrams.values()))
                style.ticks(ax, "x", any_one.temperature, any_one.temperatures, offset=0)
                ax.set_xlabel(f"{style.axis_label(any_one.temperature)}, hot ← → cold")
                ax.set_title(any_one.column_title(metric), loc="left")
                ax.grid(alpha=0.3, lw=0.5)
                if metric == "lmc":
                    ax.axhline(any_one.lmc_threshold, color="black", lw=0.9, ls=(0, (4, 2)))
            row[0].set_ylabel(heading)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return fig


def _line(ax: Axes, diagram: PhaseDiagram, metric: str, column: int, k: int, name: str) -> None:
    factor, at = PRINTED[metric][1], np.arange(len(diagram.temperatures))
    value, low, high = (
        factor * diagram.grid(f"{metric}{end}")[:, column] for end in ("", "_low", "_high")
    )
    colour = style.LINES[k % len(style.LINES)]
    ax.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
    ax.plot(
        at,
        value,
        marker=style.MARKS[k % len(style.MARKS)],
        ms=3.5,
        lw=1.3,
        color=colour,
        label=name,
        ls=style.DASHES[k % len(style.DASHES)],
    )


@style.attach_tables
def sam_radius(diagram: PhaseDiagram, played: pd.DataFrame) -> Figure:
    """Test error without SAM, at the largest radius and at that of highest CKA; CKA with stars.

    Args:
        diagram: over SAM's rho.
        played: what the rule "CKA" chose, as `threeregime.algorithms.replay.play` returns it.
    """
    none, largest = len(diagram.temperatures) - 1, 0
    rule = played[played["rule"] == "CKA"].pivot_table("test_error", "dense_seed", diagram.load)
    error = diagram.by_seed["test_error"]
    bars = {
        "no SAM": error[:, none],
        f"rho = {diagram.temperatures[largest]:g}": error[:, largest],
        "rho of highest CKA": rule[list(diagram.loads)].to_numpy(),
    }
    cka = diagram.grid("cka_softmax")
    with style.canvas(1, 2, 3.4) as (fig, axes):
        left, right = axes[0]
        for k, (name, values) in enumerate(bars.items()):
            at = np.arange(len(diagram.loads)) + 0.27 * (k - 1)
            left.bar(
                at,
                100 * mean(values, 0),
                0.25,
                color=style.LINES[k],
                label=name,
                hatch=("", "//", "..")[k],
                edgecolor="white",
                lw=0,
            )
            _dots(left, at, 100 * values)
        left.set_ylim(bottom=0)
        left.set_title(f"(a) {diagram.column_title('test_error')}", loc="left")
        style.ticks(left, "x", diagram.load, diagram.loads, offset=0)
        left.set_xlabel(style.axis_label(diagram.load))
        left.legend(frameon=False, fontsize=7.5)
        norm = style.colour_scale([cka])
        title = "(b) CKA, its highest starred"
        style.heat_map(right, diagram, cka, "cividis", norm, title, named=False)
        for j in range(len(diagram.loads)):
            if np.isfinite(cka[:, j]).any():
                best = int(np.nanargmax(cka[:, j]))
                right.plot(j + 0.5, best + 0.5, "*", ms=11, mfc="white", mec="black", zorder=7)
    return fig


@style.attach_tables
def selection(played: pd.DataFrame, diagrams: Mapping[str, PhaseDiagram], rule: str) -> Figure:
    """Test error of the net that each rule prunes, over the density; the colour is its LMC.

    Args:
        played: as `threeregime.claims.figure_statements.selections` returns it, with a column
        ``study`` that names
            the diagram.
        diagrams: by heading, one panel each.
        rule: the paper's rule to show beside the usual choice and grid search.
    """
    keys = ["study", "rule", next(iter(diagrams.values())).load]
    norm = style.colour_scale([played.groupby(keys)["lmc"].mean().to_numpy(dtype=float)])
    marks = {"best dense net": "X", rule: "s"}
    with style.canvas(1, len(diagrams), 3.6) as (fig, axes):
        for ax, (heading, diagram) in zip(axes[0], diagrams.items(), strict=True):
            here = played[played["study"] == heading]
            at = np.arange(len(diagram.loads))
            for k, (name, mark) in enumerate(marks.items()):
                values, x = _of_rule(here, name, diagram), at + 0.16 * (2 * k - 1)
                _dots(ax, x, values)
                lmc = here[here["rule"] == name].groupby(diagram.load)["lmc"].mean()
                points = ax.scatter(
                    x,
                    mean(values, 0),
                    s=46,
                    c=lmc[list(diagram.loads)],
                    cmap="cividis",
                    norm=norm,
                    marker=mark,
                    edgecolors="black",
                    linewidths=0.7,
                    zorder=3,
                    label=name,
                )
            best = mean(_of_rule(here, "grid search", diagram), 0)
            line: Any = {"colors": "black", "lw": 1.3, "ls": (0, (3, 1.5))}
            ax.hlines(best, at - 0.4, at + 0.4, label="grid search", **line)
            style.ticks(ax, "x", diagram.load, diagram.loads, offset=0)
            ax.set_xlabel(f"{style.axis_label(diagram.load)}, high load ← → low load")
            ax.set_ylabel(diagram.column_title("test_error"))
            ax.set_title(heading, loc="left")
            ax.grid(axis="y", alpha=0.3, lw=0.5)
        fig.colorbar(points, ax=axes[0, -1], pad=0.02, aspect=28, label="LMC of the chosen net")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig


def _of_rule(played: pd.DataFrame, rule: str, diagram: PhaseDiagram) -> Array:
    """Test error of a rule by dense seed and load, in percent."""
    table = played[played["rule"] == rule].pivot_table("test_error", "dense_seed", diagram.load)
    values: Array = 100 * table[list(diagram.loads)].to_numpy()
    return values


def _dots(ax: Axes, at: NDArray[np.floating[Any]], values: Array) -> None:
    """A dot a dense seed: of three, an interval would be wider than the figure."""
    for row in values:
        ax.plot(at, row, ".", ms=4, color="black", alpha=0.55, zorder=4)


def accuracy(curves: Mapping[str, pd.DataFrame], threshold: float) -> Figure:
    """Share of cells where Algorithm 1 is right, over the threshold of LMC.

    Args:
        curves: by heading, as `threeregime.tuning.accuracy` returns them.
        threshold: the one used elsewhere, marked.
    """
    with style.canvas(1, len(curves), 2.8, sharey=True) as (fig, axes):
        for ax, (heading, table) in zip(axes[0], curves.items(), strict=True):
            at = table["threshold"]
            ax.fill_between(
                at, 100 * table["low"], 100 * table["high"], color=style.LINES[0], alpha=0.18, lw=0
            )
            ax.plot(
                at, 100 * table["accuracy"], "-o", ms=3.5, color=style.LINES[0], label="Algorithm 1"
            )
            for k, name in enumerate(("always hotter", "never hotter"), start=1):
                ax.plot(at, 100 * table[name], color=style.LINES[k], ls=style.DASHES[k], label=name)
            ax.axvline(threshold, color="black", lw=0.9, ls=(0, (4, 2)))
            ax.set_xlabel("Threshold of LMC")
            ax.set_title(heading, loc="left")
            ax.set_ylim(0, 102)
            ax.grid(alpha=0.3, lw=0.5)
        axes[0, 0].set_ylabel("Cells told rightly (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return fig
