"""What the effects of registered parts are computed from: tables by dense seed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.analysis import (
    LMC_THRESHOLD,
    Array,
    PhaseDiagram,
    Study,
    classify,
    holds_no_nets,
    mean,
    otsu,
)
from threeregime.claims.parts import Rules
from threeregime.data import chance_error, task_size
from threeregime.results import Results

SENTENCES = 1000
"""Test examples where their number is not known: it only bounds an error of 0."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables of one variant of an experiment, as the effects read them.

    Attributes:
        tables: of the variant; None for the paper's own values, of which only means are published.
        diagram: phase diagram of the tables.
        rules: constants of all verdicts.
        chance: error of guessing.
        test_examples: number of test examples.
        retraining_epochs: of a whole retraining.
        variants: evidence of all variants of the experiment, by name.
    """

    tables: Results | None
    diagram: PhaseDiagram
    rules: Rules
    chance: float
    test_examples: int
    retraining_epochs: int
    variants: Mapping[str, Evidence] = field(default_factory=dict)

    @classmethod
    def from_study(cls, study: Study, rules: Rules, dense_seeds: int | None = None) -> Evidence:
        """Return the evidence of a study's first variant, at its first dense seeds.

        Args:
            study: the study.
            rules: constants of all verdicts.
            dense_seeds: how many; None: all.
        """
        experiment = study.experiment
        data = experiment.protocol.data
        chance, (_, tests) = chance_error(data), task_size(data)
        seeds = experiment.dense_seeds[:dense_seeds]
        variants = {
            name: cls(
                study.tables.variant(name).with_dense_seeds(seeds),
                _with_seeds(diagram, dense_seeds),
                rules,
                chance,
                tests or SENTENCES,
                experiment.protocol.retraining.epochs,
            )
            for name, diagram in study.diagrams.items()
        }
        return replace(next(iter(variants.values())), variants=variants)

    @classmethod
    def from_reference(cls, rules: Rules, table: pd.DataFrame | None = None) -> Evidence:
        """Return the paper's Figure 2 as evidence: its means, in place of one dense seed."""
        diagram = PhaseDiagram.from_reference(table)
        metrics = ("test_error", "lmc", "cka_softmax")
        means = {metric: diagram.grid(metric)[None] for metric in metrics}
        return cls(None, replace(diagram, by_seed=means), rules, 0.9, 10_000, 160)

    @functools.cached_property
    def no_nets(self) -> NDArray[np.bool_]:
        """Cells [T, L] that hold no nets: their mean training error is close to chance."""
        shape = (len(self.diagram.temperatures), len(self.diagram.loads))
        if self.tables is None:
            return np.zeros(shape, dtype=bool)
        cells = pd.MultiIndex.from_product([self.diagram.temperatures, self.diagram.loads])
        limit = self.rules.no_net * self.chance
        return (
            holds_no_nets(self.tables, limit)
            .reindex(cells, fill_value=False)
            .to_numpy()
            .reshape(shape)
        )

    def grid(self, metric: str) -> Array:
        """Return a metric of each dense seed [D, T, L], hot to cold; NaN without nets."""
        return np.where(self.no_nets, np.nan, self.diagram.by_seed[metric])

    def values_of(self, metric: str) -> Array:
        """Return "log_error", "dissimilarity" or "lmc" of each dense seed [D, T, L].

        Dissimilarity is log(1 - CKA).
        """
        if metric == "log_error":
            return self.log_error
        if metric == "dissimilarity":
            return np.log(np.maximum(1 - self.grid("cka_softmax"), 1e-6))
        return self.grid(metric)

    @functools.cached_property
    def diagram_of_nets(self) -> PhaseDiagram:
        """The diagram without the cells that hold no nets."""
        by_seed = {metric: self.grid(metric) for metric in self.diagram.by_seed}
        return replace(self.diagram, by_seed=by_seed)

    @functools.cached_property
    def log_error(self) -> Array:
        """Logarithms of test errors [D, T, L]; no error is below half an example."""
        return np.log(np.maximum(self.grid("test_error"), 0.5 / self.test_examples))

    def others(self, seed: int) -> NDArray[np.bool_]:
        """Mark the dense seeds other than one, by its index [D]; a single seed marks itself."""
        count = len(self.log_error)
        return np.arange(count) != seed if count > 1 else np.ones(1, dtype=bool)

    @functools.cached_property
    def regimes(self) -> NDArray[Any]:
        """Regimes of the cells [D, T, L], for each dense seed by the means of the others.

        The regimes of a single seed are its own.
        """
        lmc, cka = self.grid("lmc"), self.grid("cka_softmax")
        labels = []
        for seed in range(len(lmc)):
            others = self.others(seed)
            mean_lmc, mean_cka = mean(lmc[others], 0), mean(cka[others], 0)
            threshold = otsu(mean_cka[mean_lmc >= LMC_THRESHOLD])
            labels.append(classify(mean_lmc, mean_cka, LMC_THRESHOLD, threshold))
        return np.stack(labels)


def _with_seeds(diagram: PhaseDiagram, count: int | None) -> PhaseDiagram:
    """Return a diagram with the values of the first dense seeds alone, for the effects."""
    by_seed = {metric: values[:count] for metric, values in diagram.by_seed.items()}
    return replace(diagram, by_seed=by_seed)
