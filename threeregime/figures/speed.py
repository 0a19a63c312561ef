"""Figure of what ``benchmarks.engine`` measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from threeregime.figures.style import COLOURS, STYLE, canvas

Row = Mapping[str, Any]


def step_times(rows: Sequence[Row]) -> Figure:
    """Draw the time of a training step of one net as bars, with the floor of each.

    Args:
        rows: rows of the benchmark's table: ``width`` of the net, ``way``, number of ``nets``,
            ``density``, ``milliseconds`` and ``floor`` per net-step.
    """
    widths = list(dict.fromkeys(row["width"] for row in rows))
    tallest = max(sum(row["width"] == width for row in rows) for width in widths)
    with canvas(1, len(widths), height=0.9 + 0.3 * tallest, sharey=True) as (fig, axes):
        for axis, width in zip(axes[0], widths, strict=True):
            part = [row for row in rows if row["width"] == width]
            times = [row["milliseconds"] for row in part]
            colours = [COLOURS["II-B" if row["way"] == "planned" else "I"] for row in part]
            axis.barh(range(len(part)), times, color=colours, height=0.7)
            for place, row in enumerate(part):
                axis.plot([row["floor"]] * 2, [place - 0.35, place + 0.35], color="black", lw=1.5)
                label = f" {row['milliseconds']:.3g}"
                axis.text(row["milliseconds"], place, label, va="center", fontsize=7.5)
            axis.set_xscale("log")
            axis.set_xlim(min(row["floor"] for row in part) / 2, 2.6 * max(times))
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.set_yticks(range(len(part)), [_label(row) for row in part])
            axis.set_title(f"PreResNet-20, width {width:g}", loc="left")
            axis.spines[["top", "right"]].set_visible(False)
        axes[0][0].invert_yaxis()
        label = "milliseconds of one core per net and step (log scale)"
        fig.supxlabel(label, fontsize=STYLE["font.size"])
        return fig


def _label(row: Row) -> str:
    density = f", density {row['density']:.0%}" if row["density"] < 1 else ""
    return f"{row['way']}{density}"
