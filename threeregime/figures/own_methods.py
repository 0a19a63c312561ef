"""Figures of the project's own methods: how often the advice is right, and how fast engines are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter
from scipy.stats import beta  # type: ignore[import-untyped]

from threeregime.figures.style import COLOURS, LINES, STYLE, canvas, legend_below

EDGES = (1 / 3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0001)
"""Bins of the probability of the most probable of three directions."""
ROLES = {"test": "nets of other kinds", "train": "nets learned from, without their own kind"}


def reliability(answers: pd.DataFrame) -> Figure:
    """Draw how often the most probable direction was the true one, against its probability.

    Bars are 95 % intervals for as many dense nets as there are in a bin, since the answers about
    one dense net resemble each other (Clopper and Pearson, 1934).

    Args:
        answers: as returned by `threeregime.advice.answer_known_nets`.
    """
    with canvas(height=3.4) as (figure, axes):
        ax = axes[0, 0]
        line = {"color": "black", "lw": 0.8, "ls": (0, (4, 2))}
        ax.plot([1 / 3, 1], [1 / 3, 1], label="as often as it says", **line)
        for number, (role, label) in enumerate(ROLES.items()):
            points = reliability_points(answers[answers["role"] == role])
            shift = 0.006 * (2 * number - 1)
            ax.errorbar(
                points["probability"] + shift,
                points["right"],
                yerr=[points["right"] - points["low"], points["high"] - points["right"]],
                color=LINES[5 * number],
                marker="os"[number],
                ls="-" if role == "test" else ":",
                lw=1,
                capsize=2,
                label=label,
            )
        ax.set_xlim(0.3, 1.02)
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("probability of the most probable direction")
        ax.set_ylabel("share of nets where it was right")
        legend_below(figure, ax.get_legend_handles_labels()[0])
    return figure


def reliability_points(answers: pd.DataFrame) -> pd.DataFrame:
    """Return a row per bin with answers: mean probability, share that is right, and its interval.

    An answer is right by as much as its direction is probably the true one.

    Returns:
        Columns ``probability``, ``right``, ``low``, ``high``, ``answers`` and ``nets``.
    """
    chances = answers[["hotter", "stay", "colder"]].dropna()
    most = chances.max(axis=1)
    said = chances.idxmax(axis=1)
    right = sum((said == name) * answers.loc[chances.index, f"true_{name}"] for name in chances)
    nets = answers.loc[chances.index, "kind"] + answers.loc[chances.index, "seed"].astype(str)
    rows = []
    for low, high in pairwise(EDGES):
        rows_in = (most >= low) & (most < high)
        if not rows_in.any():
            continue
        count, share = nets[rows_in].nunique(), float(right[rows_in].mean())
        hits = share * count
        rows.append(
            {
                "probability": float(most[rows_in].mean()),
                "right": share,
                "low": float(beta.ppf(0.025, hits, count - hits + 1)) if hits else 0.0,
                "high": float(beta.ppf(0.975, hits + 1, count - hits)) if hits < count else 1.0,
                "answers": int(rows_in.sum()),
                "nets": count,
            }
        )
    return pd.DataFrame(rows)


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
