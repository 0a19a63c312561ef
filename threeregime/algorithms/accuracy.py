"""Accuracy of Algorithm 1 (Section 4.1) on the cells of a phase diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis import Array, PhaseDiagram, format_value, interval_half_width, mean

NEAR_THRESHOLDS = (-0.1, -0.025)
"""Thresholds of LMC around the paper's: twice as large and half as large."""
THRESHOLDS = tuple(np.round(np.linspace(-0.3, 0.0, 13), 3).tolist())


@dataclass(frozen=True)
class HeatingOutcomes:
    """Effect of raising the temperature from the cells of a diagram.

    Attributes:
        start: indices of the temperatures before [S].
        end: indices of the temperatures after, half the grid hotter [S].
        lmc: of the starting cells by dense seed [D, S, L].
        gain: test error before minus after by dense seed, a fraction [D, S, L].
        truth: whether raising it lowers the test error, by the mean of the other dense seeds
            [D, S, L]; NaN if unknown.
    """

    start: NDArray[np.intp]
    end: NDArray[np.intp]
    lmc: NDArray[np.float64]
    gain: NDArray[np.float64]
    truth: NDArray[np.float64]


def heating_outcomes(diagram: PhaseDiagram) -> HeatingOutcomes:
    """Raise the temperature by half the grid, from every cell of the colder half.

    The best of all hotter temperatures would be a biased truth: where errors are flat, one of many
    is lower by chance. One step of half the grid is a single comparison.
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
    """Accuracy of Algorithm 1 over the threshold of LMC.

    Returns:
        One row per threshold: ``threshold``; ``accuracy``, the share of cells where the algorithm
        is right, with its 95 % interval ``low`` to ``high`` by Student's t over dense seeds;
        ``always hotter`` and ``never hotter``, the accuracies of two constant rules.
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
    """Share of cells where Algorithm 1, with the LMC of one dense seed, is right [D]."""
    outcomes, known = _known_outcomes(diagram)
    right = (outcomes.lmc < threshold) == (outcomes.truth > 0)
    return mean(np.where(known, right, np.nan), (1, 2))


def accuracy_change(diagram: PhaseDiagram, threshold: float) -> Array:
    """Range of :func:`accuracy_by_seed` over a threshold and `NEAR_THRESHOLDS` [D]."""
    thresholds = (*NEAR_THRESHOLDS, threshold)
    return np.ptp(np.stack([accuracy_by_seed(diagram, t) for t in thresholds]), axis=0)


def _known_outcomes(diagram: PhaseDiagram) -> tuple[HeatingOutcomes, NDArray[np.bool_]]:
    """Heating outcomes, and where both LMC and truth are known."""
    outcomes = heating_outcomes(diagram)
    return outcomes, np.isfinite(outcomes.truth) & np.isfinite(outcomes.lmc)


def confusion_table(diagram: PhaseDiagram, threshold: float | None = None) -> pd.DataFrame:
    """Count the decisions of Algorithm 1 (rows) by the truth (columns), over cells and dense seeds.

    ``threshold`` is that of LMC; None: the diagram's.
    """
    outcomes, known = _known_outcomes(diagram)
    raised = outcomes.lmc[known] < (diagram.lmc_threshold if threshold is None else threshold)
    better = outcomes.truth[known] > 0
    counts = [
        [int(((raised == decision) & (better == truth)).sum()) for truth in (True, False)]
        for decision in (True, False)
    ]
    return pd.DataFrame(
        counts,
        index=pd.Index(["raise the temperature", "keep it"], name="Algorithm 1 says"),
        columns=pd.Index(["hotter is better", "hotter is not better"]),
    )


def costliest_mistakes(diagrams: Mapping[str, PhaseDiagram], most: int = 8) -> pd.DataFrame:
    """Cells where the decision of Algorithm 1, on means over seeds, costs most test error.

    Args:
        diagrams: by heading.
        most: maximum number of rows.

    Returns:
        One row per cell, the worst first: the diagram's heading, load, temperatures, LMC, the
        decision, and the test error lost, in percentage points.
    """
    rows = []
    for heading, diagram in diagrams.items():
        outcomes = heating_outcomes(diagram)
        lmc, gain = mean(outcomes.lmc, 0), mean(outcomes.gain, 0)
        for (i, j), value in np.ndenumerate(gain):
            hotter = lmc[i, j] < diagram.lmc_threshold
            if np.isfinite(value) and hotter != (value > 0):
                start, end = (diagram.temperatures[x[i]] for x in (outcomes.start, outcomes.end))
                rows.append(
                    (
                        heading,
                        format_value(diagram.load, diagram.loads[j]),
                        format_value(diagram.temperature, start),
                        format_value(diagram.temperature, end),
                        f"{lmc[i, j]:+.3f}",
                        "raise" if hotter else "keep",
                        round(100 * abs(float(value)), 2),
                    )
                )
    columns = ["diagram", "load", "from", "to", "LMC", "the rule says", "points lost"]
    table = pd.DataFrame(rows, columns=columns).sort_values("points lost", ascending=False)
    return table.head(most).assign(**{"points lost": table["points lost"].map("{:.2f}".format)})
