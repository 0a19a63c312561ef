"""How often Algorithm 1 points the right way (Section 4.1): on every cell of a finished diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis import Array, PhaseDiagram, format_value, interval_half_width, mean

THRESHOLDS = tuple(np.round(np.linspace(-0.3, 0.0, 13), 3).tolist())


@dataclass(frozen=True)
class HeatingOutcomes:
    """What happens when the temperature is raised from cells of a diagram.

    Attributes:
        start: indices of the temperatures that it is raised from [S].
        end: indices of those it is raised to, half the grid hotter [S].
        lmc: of the starting cells by dense seed [D, S, L].
        gain: test error before minus after by dense seed, a fraction [D, S, L].
        truth: whether raising it lowers the test error, on the other dense seeds' mean [D, S, L];
            NaN where that is not known.
    """

    start: NDArray[np.intp]
    end: NDArray[np.intp]
    lmc: NDArray[np.float64]
    gain: NDArray[np.float64]
    truth: NDArray[np.float64]


def heating_outcomes(diagram: PhaseDiagram) -> HeatingOutcomes:
    """Raise the temperature by half the grid, from every cell where the grid goes that far.

    The best of all hotter temperatures is no fair truth, since where errors are flat one of many
    is lower by chance; one step of half the grid is one comparison.
    """
    count = len(diagram.temperatures)
    start = np.arange(count // 2, count)
    end = start - count // 2
    error, lmc = diagram.by_seed["test_error"], diagram.by_seed["lmc"]
    gain = error[:, start] - error[:, end]
    others = np.stack(
        [mean(np.delete(gain, d, axis=0) if len(gain) > 1 else gain, 0) for d in range(len(gain))]
    )
    truth = np.where(np.isfinite(others), others > 0, np.nan)
    return HeatingOutcomes(start, end, lmc[:, start], gain, truth)


def accuracy_table(diagram: PhaseDiagram, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """Share of cells where Algorithm 1 points the right way, over the threshold of LMC.

    Returns:
        One row a threshold: ``threshold``; ``accuracy`` with ``low`` and ``high``, its 95 %
        interval by Student's t over dense seeds; ``always hotter`` and ``never hotter``, the
        accuracies of rules that do not look.
    """
    hotter = float(mean(heating_outcomes(diagram).truth.ravel(), 0))
    rows = []
    for threshold in thresholds:
        by_seed = accuracy_by_seed(diagram, threshold)
        middle, half = float(mean(by_seed, 0)), interval_half_width(by_seed)
        rows.append(
            {
                "threshold": threshold,
                "accuracy": middle,
                "low": max(0.0, middle - half),
                "high": min(1.0, middle + half),
                "always hotter": hotter,
                "never hotter": 1 - hotter,
            }
        )
    return pd.DataFrame(rows)


def accuracy_by_seed(diagram: PhaseDiagram, threshold: float) -> Array:
    """Share of cells where Algorithm 1, asked by one dense seed, points the right way [D]."""
    found = heating_outcomes(diagram)
    known = np.isfinite(found.truth) & np.isfinite(found.lmc)
    right = (found.lmc < threshold) == (found.truth > 0)
    return mean(np.where(known, right, np.nan), (1, 2))


def confusion_table(diagram: PhaseDiagram, threshold: float | None = None) -> pd.DataFrame:
    """What Algorithm 1 says against what is so, in cells times dense seeds.

    Args:
        diagram: where to look.
        threshold: of LMC; None: the diagram's.

    Returns:
        Counts; rows "raise" and "keep" as the rule says, columns as it is.
    """
    threshold = diagram.lmc_threshold if threshold is None else threshold
    found = heating_outcomes(diagram)
    known = np.isfinite(found.truth) & np.isfinite(found.lmc)
    said, so = found.lmc[known] < threshold, found.truth[known] > 0
    counts = [[int((said == a)[so == b].sum()) for b in (True, False)] for a in (True, False)]
    return pd.DataFrame(
        counts,
        index=pd.Index(["raise the temperature", "keep it"], name="Algorithm 1 says"),
        columns=pd.Index(["hotter is better", "hotter is not better"]),
    )


def costliest_mistakes(diagrams: Mapping[str, PhaseDiagram], most: int = 8) -> pd.DataFrame:
    """The cells where Algorithm 1, asked for the mean over seeds, costs most test error.

    Args:
        diagrams: by heading.
        most: rows at most.

    Returns:
        One row a cell, the worst first: the diagram's heading, load, temperature, LMC, what the
        rule says, and the test error lost, in points.
    """
    rows = []
    for heading, diagram in diagrams.items():
        found = heating_outcomes(diagram)
        lmc, gain = mean(found.lmc, 0), mean(found.gain, 0)
        for (i, j), value in np.ndenumerate(gain):
            hotter = lmc[i, j] < diagram.lmc_threshold
            if np.isfinite(value) and hotter != (value > 0):
                start, end = (diagram.temperatures[at[i]] for at in (found.start, found.end))
                rows.append(
                    {
                        "diagram": heading,
                        "load": format_value(diagram.load, diagram.loads[j]),
                        "from": format_value(diagram.temperature, start),
                        "to": format_value(diagram.temperature, end),
                        "LMC": f"{lmc[i, j]:+.3f}",
                        "the rule says": "raise" if hotter else "keep",
                        "points lost": round(100 * abs(float(value)), 2),
                    }
                )
    columns = ["diagram", "load", "from", "to", "LMC", "the rule says", "points lost"]
    table = pd.DataFrame(rows, columns=columns).sort_values("points lost", ascending=False)
    return table.head(most).assign(**{"points lost": table["points lost"].map("{:.2f}".format)})
