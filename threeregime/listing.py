"""The list of all experiments: what there is of each, and what it would cost to compute it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from threeregime import catalogue, forecast, results
from threeregime.catalogue import Experiment
from threeregime.checks import device_here
from threeregime.estimate import duration

COLUMNS = "    {:8}{:>7}  {:>8}   {:10}{:>14}"


def lines() -> Iterator[str]:
    """The list, a line a scale, 100 columns at most; costs are of this machine."""
    device = device_here("auto")
    workers = 1 if device != "cpu" else os.cpu_count() or 1
    costs = forecast.everything(device, workers)
    yield COLUMNS.format("scale", "cells", "seeds", "results", "computed anew")
    for name in catalogue.names():
        found = [catalogue.experiment(name, scale) for scale in catalogue.scales(name)]
        yield ""
        yield f"{name}: {found[0].title}"
        for experiment in found:
            yield _row(experiment, costs[name][experiment.scale])
    processes = "one process" if workers == 1 else f"{workers} processes"
    yield ""
    yield f"Seeds are dense x retraining. Times are of all cells, in {processes} on {device}: a"
    yield "rough forecast, right within a factor of two or so. To time what is left of one:"
    yield "threeregime sweep NAME --scale SCALE --dry-run"


def _row(experiment: Experiment, seconds: float) -> str:
    cells = len(experiment.variants) * len(experiment.temperatures) * len(experiment.loads)
    seeds = f"{len(experiment.dense_seeds)} x {len(experiment.retrain_seeds)}"
    about = f"about {duration(seconds)}"
    return COLUMNS.format(experiment.scale, cells, seeds, _there(experiment), about)


def _there(experiment: Experiment) -> str:
    """Whether results are shipped: yes, no, or how large a part."""
    have = results.done(experiment, results.ROOT)
    if not have:
        return "no"
    cells, seeds = experiment.cells(), experiment.dense_seeds
    there = 0
    for cell, _, copies in (unit.key for unit in cells):
        there += sum(all((cell, seed, copy) in have for copy in copies) for seed in seeds)
    wanted = len(cells) * len(seeds)
    if there == wanted:
        return "yes"
    # Rounded down: nothing is whole before it is.
    return f"part, {100 * there // wanted} %" if there else "no"
