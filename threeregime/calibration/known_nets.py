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
from scipy.special import ndtr, ndtri  # type: ignore[import-untyped]

from threeregime.analysis import Array

KNOWN_NETS = Path(__file__).with_name("known_nets.csv")
CELL = ["kind", "density", "epochs"]
MIN_GAIN = 0.01
"""Another temperature is better if its error is lower by this, a fraction, or more."""
KNOWN = 0.9
"""The truth is known if one direction is as probable as this, or more."""
QUANTILES = 1000
"""Number of quantiles by which a probability is integrated."""


@cache
def load_known_nets() -> pd.DataFrame:
    """Return the table of known nets, a row per dense net, stop and density.

    Besides the columns of the file: ``error``, of a copy on average; and those of
    :func:`true_directions`, missing at the first and last stop, which have one side.
    """
    nets = pd.read_csv(KNOWN_NETS, comment="#")
    nets["error"] = nets[["error_0", "error_1"]].mean(axis=1)
    cells = [true_directions(cell) for _, cell in nets.groupby(["kind", "density"], sort=False)]
    nets = nets.merge(pd.concat(cells), on=CELL, how="left")
    return nets.assign(known=nets["known"].eq(True))


def true_directions(nets: pd.DataFrame) -> pd.DataFrame:
    """Return gains and true direction at each stop, of the nets of one kind at one density.

    The better stop is chosen on the other dense seeds, so that its gain has no bias; the standard
    error is of the mean over seeds, with the variance of all stops together.

    Returns:
        A row per stop with two sides: ``gain_hotter`` and ``gain_colder``, what the best stop on
        that side gains; ``true_hotter``, ``true_stay`` and ``true_colder``, the probabilities of
        :func:`true_probabilities`; ``truth``, the most probable direction; and ``known``, whether
        that is at least `KNOWN`.
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
        chances = true_probabilities(hotter, colder, error)
        truth = max(chances, key=chances.__getitem__)
        row = {"epochs": stops[stop], "gain_hotter": hotter, "gain_colder": colder}
        row |= {f"true_{name}": chance for name, chance in chances.items()}
        rows.append({**row, "truth": truth, "known": chances[truth] >= KNOWN})
    cells = pd.DataFrame(rows)
    return cells.assign(kind=nets["kind"].iloc[0], density=nets["density"].iloc[0])


def _gains(errors: Array, stop: int, others: Sequence[int]) -> Array:
    """Return by how much another stop lowers the error of each seed, chosen on the others: [S].

    ``errors`` is [S, stops].
    """
    columns = list(others)
    total = errors[:, columns].sum(axis=0)
    best = [columns[int((total - own).argmin())] for own in errors[:, columns]]
    return errors[:, stop] - errors[np.arange(len(errors)), best]


def true_probabilities(hotter: float, colder: float, error: float) -> dict[str, float]:
    """Return how probable each direction is by what the two sides of a stop gain.

    A side is better if it gains `MIN_GAIN` or more, and more than the other one. Both gains are
    taken as normal, independent and nothing known of them before.

    Args:
        hotter: what the hotter side gains, a fraction.
        colder: what the colder side gains.
        error: standard error of both.
    """
    error = max(error, 1e-9)
    centres = (np.arange(QUANTILES) + 0.5) / QUANTILES
    gains = hotter + error * ndtri(centres)
    stay = float(np.prod(ndtr((MIN_GAIN - np.array([hotter, colder])) / error)))
    up = float(np.mean((gains >= MIN_GAIN) * ndtr((gains - colder) / error)))
    up = min(up, 1 - stay)
    return {"hotter": up, "stay": stay, "colder": 1 - stay - up}
