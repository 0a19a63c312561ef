"""The list of all experiments: what there is of each at each scale, and how long it took."""

from __future__ import annotations

from collections.abc import Iterator

from threeregime.experiments import list_experiments, list_scales, load_experiment
from threeregime.results import tables
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment
from threeregime.results.provenance import duration

COLUMNS = "    {:8}{:>7}  {:>8}   {:14}{:>20}"


def lines() -> Iterator[str]:
    """Yield the list, one line a scale, at most 100 columns wide."""
    yield COLUMNS.format("scale", "cells", "seeds", "tables", "computing took")
    for name in list_experiments():
        found = [load_experiment(name, scale) for scale in list_scales(name)]
        yield ""
        yield f"{name}: {found[0].title}"
        for experiment in found:
            yield _row(experiment)
    yield ""
    yield "Seeds are dense x retraining seeds. Times are those that the shipped tables record,"
    yield "of one core or GPU. To time what is left of an experiment on this machine:"
    yield "threeregime sweep NAME --scale SCALE --dry-run"


def _row(experiment: Experiment) -> str:
    cells = len(experiment.variants) * len(experiment.temperatures) * len(experiment.loads)
    seeds = f"{len(experiment.dense_seeds)} x {len(experiment.retrain_seeds)}"
    best = max(experiment.data_variants(), key=coverage)
    return COLUMNS.format(experiment.scale, cells, seeds, _tables(best, experiment), _took(best))


def coverage(experiment: Experiment) -> float:
    """Return the share of an experiment's cells and dense seeds that the shipped tables hold."""
    finished = tables.done(experiment, tables.ROOT)
    keys = [unit.key for unit in experiment.units()] if finished else []
    there = sum(
        all((cell, seed, copy) in finished for copy in copies) for cell, seed, copies in keys
    )
    return there / len(keys) if keys else 0.0


def _tables(best: Experiment, asked: Experiment) -> str:
    """Return whether tables are shipped: yes, no, or the share; of a copy of the data, which."""
    share = coverage(best)
    if not share:
        return "no"
    # Rounded down: nothing is complete before it is.
    words = "yes" if share == 1 else f"{int(100 * share)} %"
    return words if best.protocol.data == asked.protocol.data else f"{words} (JPEG)"


def _took(experiment: Experiment) -> str:
    try:
        fleets = tables.load(experiment).origins
    except ThreeRegimeError:
        return "--dry-run times it"
    return duration(float(fleets["seconds"].sum()))
