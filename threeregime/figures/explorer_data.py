"""The numbers that the explorer shows, laid out for JSON: see `threeregime.figures.explorer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threeregime.analysis import (
    PROBABILITY_COLUMNS,
    PhaseDiagram,
    Study,
    format_value,
    temperature_gains,
)
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import AXES, Experiment, load_experiment
from threeregime.figures.style import COLOURS, axis_label

# Significant digits; LMC and CKA keep all of theirs, since thresholds are compared with them.
_DIGITS = 6
_MEANS = ("test_error", "lmc", "cka_softmax")


def explorer_data(reports: Sequence[Study]) -> dict[str, Any]:
    """The numbers that the explorer shows, ready for JSON: one entry a diagram, and the paper's.

    Of two reports on the same experiment, scale and protocol the first counts.

    Raises:
        ThreeRegimeError: no diagram, or one of several variants.
    """
    chosen: dict[str, Study] = {}
    for report in reports:
        chosen.setdefault(_key(report.experiment), report)
    if not chosen:
        raise ThreeRegimeError("nothing to explore: run `threeregime sweep figure_02` first")
    entries = [_entry(key, report) for key, report in chosen.items()]
    paper = PhaseDiagram.from_reference(lmc_threshold=entries[0]["lmc_threshold"])
    return {"diagrams": entries, "paper": _diagram(paper), "colours": COLOURS}


def _key(experiment: Experiment) -> str:
    """What tells a diagram from the others, and stands for it in an address."""
    return "/".join([experiment.name, experiment.scale, *map(str, _changes(experiment).values())])


def _entry(key: str, report: Study) -> dict[str, Any]:
    """One diagram with what there is to say about it."""
    experiment, diagram = report.experiment, report.diagram
    if len(report.diagrams) > 1:
        raise ThreeRegimeError(
            f"{experiment.name} has several diagrams, {', '.join(report.diagrams)}: the explorer "
            "shows experiments of one"
        )
    changes = _changes(experiment)
    axes = (diagram.temperature, diagram.load)
    turned = AXES[diagram.temperature]
    source = "".join(f", {value}" for value in changes.values())
    options = "".join(f" --set {name}={value}" for name, value in changes.items())
    best, *gained = temperature_gains(diagram)
    made = _diagram(diagram)
    for name, values in zip(("gain", "gain_low", "gain_high"), gained, strict=True):
        made["cells"][name] = _plain(values)
    return {
        **made,
        "key": key,
        "title": f"{experiment.name}, {experiment.scale}{source}: {experiment.title}",
        "command": f"threeregime sweep {experiment.name} --scale {experiment.scale}{options}",
        "hotter": turned.hotter,
        "colder": turned.colder,
        "seeds": [len(experiment.dense_seeds), len(experiment.retrain_seeds)],
        "best": [int(i) if i >= 0 else None for i in best],
        "curves": _curves(report),
        # As `transitions.compare`, on the experiment that the paper's values are of.
        "comparable": experiment.name == "figure_02" and axes == ("epochs", "density"),
    }


def _diagram(diagram: PhaseDiagram) -> dict[str, Any]:
    """The axes, thresholds and cells of a diagram; cells row by row, hot to cold."""
    columns = [f"{name}{end}" for name in _MEANS for end in ("", "_low", "_high")]
    counts = ("n_nets", "n_pairs", "n_diverged")
    exact = ("lmc", "cka_softmax")
    return {
        "error": diagram.column_title("test_error"),
        "temperature": _axis(diagram.temperature, diagram.temperatures),
        "load": _axis(diagram.load, diagram.loads),
        "total": diagram.total,
        "lmc_threshold": diagram.lmc_threshold,
        # Without a connected cell there is none, and none is needed.
        "cka_threshold": 1.0 if np.isnan(diagram.cka_threshold) else diagram.cka_threshold,
        "cka_rule": diagram.cka_rule,
        "cells": {
            name: _plain(diagram.grid(name), 17 if name in exact else _DIGITS)
            for name in (*columns, *PROBABILITY_COLUMNS.values(), *counts)
        },
    }


def _axis(name: str, values: Sequence[float]) -> dict[str, Any]:
    """A temperature or load: its values, their ticks and how a sentence names them."""
    factor = 100 if AXES[name].percent else 1
    return {
        "name": name,
        "label": axis_label(name),
        "values": [AXES[name].kind(v) for v in values],
        "ticks": [f"{factor * v:g}" for v in values],
        "phrases": [AXES[name].phrase.format(format_value(name, v)) for v in values],
    }


def _changes(experiment: Experiment) -> Mapping[str, Any]:
    """The fields in which it departs from the catalogue's experiment of that name and scale."""
    listed = load_experiment(experiment.name, experiment.scale).protocol.to_dict()
    changed = {}
    for section, fields in experiment.protocol.to_dict().items():
        for name, value in fields.items():
            if listed[section][name] != value:
                changed[f"{section}.{name}"] = value
    return changed


def _curves(report: Study) -> list[list[float | None] | None]:
    """Mean error along the line between two copies, cell by cell; None where there is none."""
    diagram, pairs = report.diagram, report.tables.pairs
    pairs = pairs[np.isfinite(pairs["lmc"].to_numpy(dtype=float))]
    found = {
        place: _plain(np.mean(np.vstack(list(of_cell)), axis=0), 4)
        for place, of_cell in pairs.groupby([diagram.temperature, diagram.load])["curve"]
    }
    return [found.get((t, x)) for t in diagram.temperatures for x in diagram.loads]


def _plain(values: NDArray[Any], digits: int = _DIGITS) -> list[float | None]:
    """Numbers for JSON, rounded to significant digits, None for NaN."""
    flat = np.asarray(values, dtype=float).ravel()
    return [float(f"{v:.{digits}g}") if np.isfinite(v) else None for v in flat]
