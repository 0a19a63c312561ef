"""Figures on metrics that separate the regimes, and on the search for the boundary.

As in `threeregime.figures.diagrams`: one column wide, closed when returned, legible without colour.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib import colors
from matplotlib.figure import Figure

from threeregime.analysis import Array, Boundary, PhaseDiagram
from threeregime.figures import style


def separation(areas: pd.DataFrame, names: Mapping[str, str]) -> Figure:
    """Draw the area under the ROC curve of each metric, at the end of retraining and early on.

    Args:
        areas: as returned by `threeregime.analysis.separation_table`.
        names: metrics to draw, with their labels.
    """
    end = areas[areas["epoch"].isna()].set_index("metric")["auc"]
    early = areas[areas["epoch"].notna()]
    metrics = [m for m in names if m in end.index]
    with style.canvas(1, 2, 3.2, sharey=True) as (fig, axes):
        left, right = axes[0]
        left.bar(range(len(metrics)), end[metrics], 0.65, color=style.LINES[0])
        for k, metric in enumerate(metrics):
            left.text(k, end[metric] + 0.01, f"{end[metric]:.2f}", ha="center", size=8)
        left.set_xticks(range(len(metrics)), [names[m] for m in metrics], rotation=20, ha="right")
        left.set_title("At the end of retraining", loc="left")
        left.set_ylabel("Area under the ROC curve")
        for k, metric in enumerate(m for m in metrics if (early["metric"] == m).any()):
            line = early[early["metric"] == metric].sort_values("epoch")
            right.plot(line["epoch"], line["auc"], ms=4, label=names[metric], **style.line(k))
        if len(early):
            epochs = sorted(early["epoch"].unique())
            right.set_xscale("log", base=2)
            right.set_xticks(epochs, [f"{e:g}" for e in epochs])
            right.minorticks_off()
            right.legend(frameon=False, fontsize=7.5)
        right.set_xlabel("Epochs of retraining")
        right.set_title("Early on", loc="left")
        for ax in (left, right):
            ax.axhline(0.5, **style.THRESHOLD)
            ax.set_ylim(0, 1.05)
            ax.grid(axis="y", alpha=0.3, lw=0.5)
    return fig


@style.attach_tables
def local_metrics(diagram: PhaseDiagram, values: Mapping[str, Array]) -> Figure:
    """Draw metrics of single nets over the diagram, on a logarithmic scale.

    Args:
        diagram: defines axes and boundaries.
        values: grids [T, L] of positive numbers by heading.
    """
    with style.canvas(1, len(values), 3.4) as (fig, axes):
        for ax, (heading, grid) in zip(axes[0], values.items(), strict=True):
            known = grid[np.isfinite(grid) & (grid > 0)]
            ends = (float(known.min()), float(known.max())) if known.size else (0.1, 1.0)
            norm = colors.LogNorm(ends[0], max(ends[1], ends[0] * 1.001))
            positive = np.where(grid > 0, grid, np.nan)
            style.heat_map(ax, diagram, positive, "viridis", norm, heading)
    return fig


@style.attach_tables
def boundary_search(panels: Mapping[str, tuple[PhaseDiagram, Boundary]]) -> Figure:
    """Draw LMC of whole diagrams, the boundary from the bisection, and the cells it measured.

    Args:
        panels: diagram and boundary by heading, two per row.
    """
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    norm = style.colour_scale([diagram.grid("lmc") for diagram, _ in panels.values()])
    with style.canvas(rows, columns, 3.6 * rows) as (fig, axes):
        for ax, (heading, (diagram, boundary)) in zip(axes.flat, panels.items(), strict=False):
            lmc = np.ma.masked_invalid(diagram.grid("lmc"))
            mesh = ax.pcolormesh(lmc, cmap="cividis", norm=norm, rasterized=True)
            edges = np.repeat(np.arange(len(diagram.loads) + 1), 2)[1:-1]
            steps = np.repeat(boundary.crossing, 2)
            ax.plot(edges, steps, color="black", lw=2, path_effects=style.halo(3.6))
            for temperature, load in boundary.lmc:
                i, j = diagram.temperatures.index(temperature), diagram.loads.index(load)
                ax.plot(j + 0.5, i + 0.5, "o", ms=5, mfc="white", mec="black")
            style.label_axes(ax, diagram)
            ax.set_title(heading, loc="left")
        fig.colorbar(mesh, ax=axes[0, -1], pad=0.02, aspect=28, label="LMC")
    return fig
