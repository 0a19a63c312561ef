"""A study: an experiment with its tables and phase diagrams, as the notebooks show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from threeregime.analysis.cells import format_value
from threeregime.analysis.phase_diagram import PhaseDiagram
from threeregime.analysis.thresholds import LMC_THRESHOLD
from threeregime.analysis.transitions import best_temperatures
from threeregime.data import chance_error
from threeregime.experiments import Experiment, load_experiment
from threeregime.results import (
    Results,
    attach_facts,
    load_results,
    provenance_lines,
    shipped_tables,
)
from threeregime.results import tables as results
from threeregime.sweep import is_complete, obtain_results

NO_NET_SHARE = 0.5
"""A cell whose mean training error is above this share of chance holds no nets."""

if TYPE_CHECKING:
    from IPython.display import Markdown


@dataclass(frozen=True, eq=False)
class Study:
    """An experiment with its tables and the diagram of each of its variants.

    Attributes:
        experiment: the experiment.
        tables: its results.
        diagrams: one per variant, by name; the name of an only variant is empty.
    """

    experiment: Experiment
    tables: Results
    diagrams: dict[str, PhaseDiagram]

    @property
    def diagram(self) -> PhaseDiagram:
        """The diagram of the first variant."""
        return next(iter(self.diagrams.values()))

    def facts(self) -> pd.DataFrame:
        """Data, nets, training and regimes, one row each, for display."""
        experiment, recipe = self.experiment, self.experiment.protocol
        facts = {
            "data": recipe.data.name,
            "net": f"{recipe.net.name}-{recipe.net.depth}, width x {recipe.net.width:g}",
            "dense training": _training(recipe.dense),
            "retraining": _training(recipe.retraining),
            "cells": sum(len(d.cells) for d in self.diagrams.values()),
            "dense x retraining seeds": f"{len(experiment.dense_seeds)} x "
            f"{len(experiment.retrain_seeds)}",
            "retrained nets": len(self.tables.nets),
            "diverged nets": int(self.tables.nets["diverged"].sum()),
        }
        for name, diagram in self.diagrams.items():
            head = f"{name}: " if name else ""
            regimes = diagram.cells["regime"].value_counts()
            facts[f"{head}cells in I, II-A, II-B"] = ", ".join(
                str(regimes.get(regime, 0)) for regime in ("I", "II-A", "II-B")
            )
            threshold = f"{diagram.cka_threshold:.3f} ({diagram.cka_rule})"
            known = np.isfinite(diagram.cka_threshold)
            facts[f"{head}CKA threshold"] = threshold if known else "none: no cell is connected"
        if failure := self.failure():
            facts["failure"] = failure
        return pd.Series({k: str(v) for k, v in facts.items()}, name=self.diagram.title).to_frame()

    def failure(self) -> str:
        """Return in words that the tables hold no net to speak of, or an empty text."""
        if self.tables.nets["diverged"].all():
            return "every net diverged"
        cells = pd.concat([diagram.cells for diagram in self.diagrams.values()])
        if (cells["no_nets"] | (cells["n_nets"] == 0)).all():
            return "no net learned enough"
        return ""

    def sources(self) -> Markdown:
        """Row counts and provenance of the tables, for display."""
        from IPython.display import Markdown

        tables = self.tables
        names = [asdict(tables.id)] if tables.id else []
        counts = (
            f"{len(tables.nets)} nets, {len(tables.pairs)} pairs, "
            f"{len(tables.dense)} dense checkpoints"
        )
        text = "\n".join(["```text", counts, *provenance_lines(tables.origins), "```"])
        return attach_facts(Markdown(text), tables=names)

    @classmethod
    def obtain(
        cls,
        name: str,
        scale: str,
        *,
        temperatures: Sequence[float] = (),
        loads: Sequence[float] = (),
        dense_seeds: int = 0,
        retrain_seeds: int = 0,
        lmc_threshold: float = LMC_THRESHOLD,
        cka_threshold: float = 0.0,
        device: str = "auto",
        recompute: bool = False,
        fields: Mapping[str, Any] | None = None,
    ) -> Study:
        """Read the shipped tables of an experiment, compute what is missing, make its diagrams.

        Prints a line if every net diverged or none learned enough.

        Args:
            name: the experiment.
            scale: one of its scales.
            temperatures: values of its temperature; none: those of its grid.
            loads: values of its load; none: those of its grid.
            dense_seeds: number of dense seeds; 0: the experiment's.
            retrain_seeds: number of retraining seeds; 0: the experiment's.
            lmc_threshold: a cell below it is in Regime I.
            cka_threshold: a connected cell at or above it is in II-B; 0: by Otsu's rule.
            device: cpu, cuda or auto.
            recompute: do not read the shipped tables.
            fields: fields of the protocol to change.

        Raises:
            ThreeRegimeError: If a value is not allowed.
        """
        experiment = load_experiment(name, scale).with_fields(fields or {})
        grid = {experiment.temperature: temperatures, experiment.load: loads}
        experiment = experiment.with_values(**{axis: v for axis, v in grid.items() if v})
        if dense_seeds or retrain_seeds:
            experiment = experiment.with_seeds(
                dense_seeds or len(experiment.dense_seeds),
                retrain_seeds or len(experiment.retrain_seeds),
            )
        tables = obtain_results(experiment, device, recompute)
        study = cls.from_results(experiment, tables, lmc_threshold, cka_threshold)
        if failure := study.failure():
            print(f"{name}, {scale}: {failure}; what is below tells nothing about pruning")
        return study

    @classmethod
    def from_results(
        cls,
        experiment: Experiment,
        tables: Results,
        lmc_threshold: float = LMC_THRESHOLD,
        cka_threshold: float = 0.0,
    ) -> Study:
        """Make the diagram of each variant; thresholds as in `obtain`."""
        limit = NO_NET_SHARE * chance_error(experiment.protocol.data)
        total = experiment.protocol.dense.epochs if experiment.temperature == "epochs" else None
        diagrams = {
            variant: PhaseDiagram.from_results(
                tables.variant(variant),
                lmc_threshold,
                cka_threshold or None,
                total=total,
                max_train_error=limit,
            )
            for variant in experiment.variants
        }
        return cls(experiment, tables, diagrams)

    @classmethod
    def shipped(cls, experiment: Experiment, root: Path | None = None) -> Study | None:
        """Return the study of an experiment from tables that hold all of it, else None.

        Args:
            experiment: what is wanted.
            root: where tables lie; None: the shipped ones.
        """
        at = root or results.ROOT
        if not is_complete(experiment, at):
            return None
        tables = load_results(experiment, at)
        return cls.from_results(experiment, tables)

    @classmethod
    def at_paper_scale(
        cls, name: str, lmc_threshold: float = LMC_THRESHOLD, cka_threshold: float = 0.0
    ) -> list[Study]:
        """Return the studies of an experiment with shipped tables at the paper's scale.

        Covers the original data set and, for CIFAR-10, its JPEG copy, and prints a line about
        each. Computes nothing.
        """
        shipped = {
            one.experiment.protocol.data.name: one.results
            for one in shipped_tables(names=[name], scales=["paper"])
        }
        studies = []
        for chosen in load_experiment(name, "paper").data_variants():
            source = chosen.protocol.data.name
            if source not in shipped:
                print(f"{source}: not yet measured")
                continue
            tables = shipped[source]
            cells = len(tables.nets.drop_duplicates("cell"))
            whole = len(chosen.units()) // len(chosen.dense_seeds)
            print(f"{source}: {cells} of {whole} cells")
            studies.append(cls.from_results(chosen, tables, lmc_threshold, cka_threshold))
        return studies


def _training(training: Any) -> str:
    length = f"{training.iterations} steps" if training.iterations else f"{training.epochs} epochs"
    return (
        f"{training.optimizer.upper() if training.optimizer == 'sgd' else 'Adam'}, {length}, "
        f"batch {training.batch_size}, decay {training.weight_decay:g}"
    )


def best_temperature_table(diagram: PhaseDiagram) -> pd.DataFrame:
    """Best temperature of each load, with its error and those of the hottest and the coldest."""
    table = best_temperatures(diagram)
    ends = ("hottest", "best", "coldest")
    errors = {
        f"error at {end}, {diagram.error}": [f"{100 * e:.2f}" for e in table[f"error_{end}"]]
        for end in ends
    }
    named = table[[f"regime_{end}" for end in ends]].fillna("no nets").astype(str)
    regimes = [" / ".join(row) for row in named.to_numpy()]
    return pd.DataFrame(
        {
            diagram.load.replace("_", " "): [
                format_value(diagram.load, x) for x in table[diagram.load]
            ],
            "best": [
                format_value(diagram.temperature, x) if np.isfinite(x) else "none"
                for x in table["best"]
            ],
            **errors,
            "regimes there": regimes,
        }
    )
