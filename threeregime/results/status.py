"""What is shipped of every experiment: as a table, and as the list that the terminal shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from threeregime.experiments import (
    Experiment,
    list_experiments,
    list_scales,
    load_experiment,
)
from threeregime.results.provenance import duration
from threeregime.results.shipped import ShippedTables, shipped_tables

LIST_ROW = "    {:8}{:>7}  {:>8}   {:14}{:>20}"


def status_table(root: Path | None = None) -> pd.DataFrame:
    """Return a row for each experiment and scale of which there are tables.

    Args:
        root: folder of the tables; None: the shipped ones.

    Returns:
        Columns ``experiment``, ``scale``, ``data``, ``cells`` (those there are, of the grid),
        ``nets`` (retrained), ``seeds`` (dense x retraining), ``computed`` (the last day),
        ``device``, ``hours`` (of one core or GPU), ``commits``, ``missing`` (nets) and ``stale``
        ("no", "yes" with the versions of the numbers, or "unknown").
    """
    return pd.DataFrame(_status_row(shipped) for shipped in shipped_tables(root))


def _status_row(shipped: ShippedTables) -> dict[str, object]:
    experiment, results = shipped.experiment, shipped.results
    fleets = results.origins
    return {
        "experiment": experiment.name,
        "scale": experiment.scale,
        "data": experiment.protocol.data.name,
        "cells": f"{results.nets['cell'].nunique()} of {len(experiment.cells())}",
        "nets": len(results.nets),
        "seeds": _seeds(experiment),
        "computed": str(fleets["created"].max())[:10],
        "device": "; ".join(sorted(set(fleets["device"]))),
        "hours": round(shipped.seconds / 3600, 2),
        "commits": ", ".join(sorted(set(fleets["commit"]))),
        "missing": shipped.missing_nets,
        "stale": shipped.stale,
    }


def experiment_list(root: Path | None = None) -> Iterator[str]:
    """Yield the list of all experiments, a line for each scale, at most 100 columns wide.

    Args:
        root: folder of the tables; None: the shipped ones.
    """
    best: dict[tuple[str, str], ShippedTables] = {}
    for shipped in shipped_tables(root):
        key = (shipped.experiment.name, shipped.experiment.scale)
        if key not in best or shipped.share > best[key].share:
            best[key] = shipped
    yield LIST_ROW.format("scale", "cells", "seeds", "tables", "computing took")
    for name in list_experiments():
        experiments = [load_experiment(name, scale) for scale in list_scales(name)]
        yield ""
        yield f"{name}: {experiments[0].title}"
        for experiment in experiments:
            yield _list_row(experiment, best.get((name, experiment.scale)))
    yield ""
    yield "Seeds are dense x retraining seeds. Times are those that the shipped tables record,"
    yield "of one core or GPU. To time what is left of an experiment on this machine:"
    yield "threeregime sweep NAME --scale SCALE --dry-run"


def _list_row(experiment: Experiment, shipped: ShippedTables | None) -> str:
    cells = len(experiment.variants) * len(experiment.temperatures) * len(experiment.loads)
    tables = "no" if shipped is None else _share_in_words(shipped)
    took = "--dry-run times it" if shipped is None else duration(shipped.seconds)
    return LIST_ROW.format(experiment.scale, cells, _seeds(experiment), tables, took)


def _share_in_words(shipped: ShippedTables) -> str:
    """Return how much there is: "yes" or a percentage, and whether it is of a copy of the data."""
    # Rounded down: nothing is complete before it is.
    share = "yes" if not shipped.missing_nets else f"{int(100 * shipped.share)} %"
    return f"{share} (JPEG)" if shipped.is_copy else share


def _seeds(experiment: Experiment) -> str:
    return f"{len(experiment.dense_seeds)} x {len(experiment.retrain_seeds)}"
