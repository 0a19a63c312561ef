"""Nets whose best temperature is known by brute force.

The table of these nets (``known_nets.csv``, of ``python -m benchmarks.known_nets``) holds what
`advise` measures of each, and the errors of all temperatures of its dense run after a complete
retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from threeregime.analysis import Array

KNOWN_NETS = Path(__file__).with_name("known_nets.csv")
CELL = ["kind", "density", "epochs"]
MIN_GAIN = 0.005
"""Another temperature is better if its error is lower by this, a fraction, or more .."""
STANDARD_ERRORS = 2.0
""".. and by this many standard errors."""


@cache
def load_known_nets() -> pd.DataFrame:
    """Return the table of known nets, a row per dense net, stop and density.

    Besides the columns of the file: ``error``, of a copy on average; ``gain_hotter`` and
    ``gain_colder``, what the best stop on that side gains; and ``truth``, the true direction
    (:func:`true_direction`; missing at the first and last stop, which have one side).
    """
    nets = pd.read_csv(KNOWN_NETS, comment="#")
    nets["error"] = nets[["error_0", "error_1"]].mean(axis=1)
    cells = [true_directions(cell) for _, cell in nets.groupby(["kind", "density"], sort=False)]
    return nets.merge(pd.concat(cells), on=CELL, how="left")


def true_directions(nets: pd.DataFrame) -> pd.DataFrame:
    """Return gains and true direction at each stop, of the nets of one kind at one density.

    The better stop is chosen on the other dense seeds, so that its gain has no bias; the standard
    error is of the mean over seeds, with the variance of all stops together.
    """
    table = nets.pivot(index="seed", columns="epochs", values="error")
    stops, errors = [int(stop) for stop in table.columns], table.to_numpy(float)
    gains = {
        (stop, side): _gains(errors, stop, others)
        for stop in range(1, len(stops) - 1)
        for side, others in (("hotter", range(stop)), ("colder", range(stop + 1, len(stops))))
    }
    variance = np.mean([gain.var(ddof=1) for gain in gains.values()])
    error = float(np.sqrt(variance / len(errors)))
    rows = []
    for stop in range(1, len(stops) - 1):
        hotter, colder = (float(gains[stop, side].mean()) for side in ("hotter", "colder"))
        rows.append((stops[stop], hotter, colder, true_direction(hotter, colder, error)))
    cells = pd.DataFrame(rows, columns=["epochs", "gain_hotter", "gain_colder", "truth"])
    return cells.assign(kind=nets["kind"].iloc[0], density=nets["density"].iloc[0])


def _gains(errors: Array, stop: int, others: Sequence[int]) -> Array:
    """Return by how much another stop lowers the error of each seed, chosen on the others: [S].

    ``errors`` is [S, stops].
    """
    columns = list(others)
    total = errors[:, columns].sum(axis=0)
    best = [columns[int((total - own).argmin())] for own in errors[:, columns]]
    return errors[:, stop] - errors[np.arange(len(errors)), best]


def true_direction(hotter: float, colder: float, error: float) -> str:
    """Return the better side of a stop, if it gains half a point and two standard errors."""
    limit = max(MIN_GAIN, STANDARD_ERRORS * error)
    gain, side = max((hotter, "hotter"), (colder, "colder"))
    return side if gain >= limit else "stay"
