"""The numbers of the explorer as JSON data; see `threeregime.figures.explorer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threeregime.analysis import (
    PROBABILITY_COLUMNS,
    PhaseDiagram,
    Study,
    Summary,
    format_value,
    temperature_gains,
)
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES, Experiment, load_experiment
from threeregime.figures.style import COLOURS, axis_label

# Significant digits; LMC and CKA keep all of them, since they are compared with thresholds.
_DIGITS, _ALL_DIGITS = 6, 17
_THRESHOLD_METRICS = ("lmc", "cka_softmax")


def explorer_data(studies: Sequence[Study], headline: Summary | None = None) -> dict[str, Any]:
    """Return the data of the explorer: one entry per diagram, and the paper's diagram.

    Of two studies of the same experiment, scale and protocol the first is used.

    Args:
        studies: the studies.
        headline: the mean of the headline effect over studies; None: none is shown, as without an
            interval.

    Raises:
        ThreeRegimeError: If there are no studies, or one has several variants.
    """
    unique: dict[str, Study] = {}
    for study in studies:
        unique.setdefault(_key(study.experiment), study)
    if not unique:
        raise ThreeRegimeError("nothing to explore: run `threeregime sweep figure_02` first")
    entries = [_entry(key, study) for key, study in unique.items()]
    paper = PhaseDiagram.from_reference(lmc_threshold=entries[0]["lmc_threshold"])
    mean = None
    if headline is not None and np.isfinite([headline.low, headline.high]).all():
        mean = {name: getattr(headline, name) for name in ("effect", "low", "high", "studies")}
    return {"diagrams": entries, "paper": _diagram(paper), "colours": COLOURS, "headline": mean}


def _key(experiment: Experiment) -> str:
    """Key of a diagram, unique and used in addresses."""
    return "/".join([experiment.name, experiment.scale, *map(str, _changes(experiment).values())])


def _entry(key: str, study: Study) -> dict[str, Any]:
    """One diagram with its titles, gains and curves."""
    experiment, diagram = study.experiment, study.diagram
    if len(study.diagrams) > 1:
        raise ThreeRegimeError(
            f"{experiment.name} has several diagrams, {', '.join(study.diagrams)}: the explorer "
            "shows experiments of one"
        )
    changes = _changes(experiment)
    source = "".join(f", {value}" for value in changes.values())
    options = "".join(f" --set {name}={value}" for name, value in changes.items())
    best, *gains = temperature_gains(diagram)
    entry = _diagram(diagram)
    for name, values in zip(("gain", "gain_low", "gain_high"), gains, strict=True):
        entry["cells"][name] = _to_json(values)
    return {
        **entry,
        "key": key,
        "title": f"{experiment.name}, {experiment.scale}{source}: {experiment.title}",
        "command": f"threeregime sweep {experiment.name} --scale {experiment.scale}{options}",
        "hotter": AXES[diagram.temperature].hotter,
        "colder": AXES[diagram.temperature].colder,
        "seeds": [len(experiment.dense_seeds), len(experiment.retrain_seeds)],
        "best": [int(i) if i >= 0 else None for i in best],
        "curves": _curves(study),
        "by_seed": _errors_by_seed(study),
        # The paper's values are those of this experiment and these axes.
        "comparable": (experiment.name, diagram.temperature, diagram.load)
        == ("figure_02", "epochs", "density"),
    }


def _diagram(diagram: PhaseDiagram) -> dict[str, Any]:
    """The axes, thresholds and cells of a diagram; cells row by row, hot to cold."""
    metrics = ("test_error", *_THRESHOLD_METRICS)
    columns = [f"{name}{end}" for name in metrics for end in ("", "_low", "_high")]
    counts = ("n_nets", "n_pairs", "n_diverged", "no_nets")
    return {
        "error": diagram.column_title("test_error"),
        "temperature": _axis(diagram.temperature, diagram.temperatures),
        "load": _axis(diagram.load, diagram.loads),
        "total": diagram.total,
        "lmc_threshold": diagram.lmc_threshold,
        # Without a connected cell there is no threshold, and none is needed.
        "cka_threshold": 1.0 if np.isnan(diagram.cka_threshold) else diagram.cka_threshold,
        "cka_rule": diagram.cka_rule,
        "cells": {
            name: _to_json(
                diagram.grid(name), _ALL_DIGITS if name in _THRESHOLD_METRICS else _DIGITS
            )
            for name in (*columns, *PROBABILITY_COLUMNS.values(), *counts)
        },
    }


def _axis(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A temperature or load: its values, their tick labels and their phrases in sentences."""
    factor = 100 if AXES[name].percent else 1
    return {
        "name": name,
        "label": axis_label(name),
        "values": [AXES[name].kind(v) for v in values],
        "ticks": [f"{factor * v:g}" for v in values],
        "phrases": [AXES[name].phrase.format(format_value(name, v)) for v in values],
    }


def _changes(experiment: Experiment) -> Mapping[str, Any]:
    """Fields that differ from the catalogue's experiment of that name and scale, with values."""
    listed = load_experiment(experiment.name, experiment.scale).protocol.to_dict()
    return {
        f"{section}.{name}": value
        for section, fields in experiment.protocol.to_dict().items()
        for name, value in fields.items()
        if listed[section][name] != value
    }


def _curves(study: Study) -> list[list[float | None] | None]:
    """Mean error along the line between two copies, cell by cell; None for a cell without pairs."""
    diagram, pairs = study.diagram, study.tables.pairs
    pairs = pairs[np.isfinite(pairs["lmc"].to_numpy(dtype=float))]
    curves = {
        cell: _to_json(np.mean(np.vstack(list(group)), axis=0), 4)
        for cell, group in pairs.groupby([diagram.temperature, diagram.load])["curve"]
    }
    return [curves.get((t, x)) for t in diagram.temperatures for x in diagram.loads]


def _errors_by_seed(study: Study) -> list[list[float | None]]:
    """Mean test error of the copies of each dense seed, cell by cell."""
    diagram, nets = study.diagram, study.tables.nets
    axes = [diagram.temperature, diagram.load]
    means = nets.groupby([*axes, "dense_seed"])["test_error"].mean()
    cells = {cell: _to_json(group.to_numpy(), 4) for cell, group in means.groupby(axes)}
    return [cells.get((t, x), []) for t in diagram.temperatures for x in diagram.loads]


def _to_json(values: NDArray[Any], digits: int = _DIGITS) -> list[float | None]:
    """Flat list of numbers rounded to significant digits, None for NaN."""
    flat = np.asarray(values, dtype=float).ravel()
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in flat]
