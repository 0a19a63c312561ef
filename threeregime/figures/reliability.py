"""Figures of the advice: how often its probabilities and its answers are right."""

from __future__ import annotations

from itertools import pairwise

import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import beta  # type: ignore[import-untyped]

from threeregime.figures.style import LINES, canvas, legend_below

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

    Returns:
        Columns ``probability``, ``right``, ``low``, ``high``, ``answers`` and ``nets``.
    """
    chances = answers[["hotter", "stay", "colder"]].dropna()
    most = chances.max(axis=1)
    right = chances.idxmax(axis=1) == answers.loc[chances.index, "truth"]
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
