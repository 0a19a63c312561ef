"""The tables that a folder holds of the catalogue's experiments; the shipped ones by default."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from threeregime.experiments import (
    Experiment,
    list_experiments,
    list_scales,
    load_experiment,
)
from threeregime.results import tables
from threeregime.results.provenance import staleness
from threeregime.results.shards import tables_folder
from threeregime.results.tables import Results


@dataclass(frozen=True)
class ShippedTables:
    """An experiment of which there are tables.

    Attributes:
        experiment: at its scale, on the data set or the copy of it that the tables are of.
        asked: the same as the catalogue has it.
        results: its tables.
        finished: (cell hash, dense seed, retraining seed) of the nets that have all measurements,
            those of other protocols included.
    """

    experiment: Experiment
    asked: Experiment
    results: Results
    finished: frozenset[tuple[str, int, int]]

    @property
    def is_copy(self) -> bool:
        """True if the tables are of a copy of the data set that the experiment asks for."""
        return self.experiment.protocol.data != self.asked.protocol.data

    @cached_property
    def missing_nets(self) -> int:
        """Number of nets of the grid and seeds that lack some measurement."""
        experiment = self.experiment
        cells = [unit.protocol.hash() for unit in experiment.cells()]
        nets = itertools.product(cells, experiment.dense_seeds, experiment.retrain_seeds)
        return sum(net not in self.finished for net in nets)

    @property
    def share(self) -> float:
        """Share of the nets that are there, from 0 to 1."""
        experiment = self.experiment
        nets = len(experiment.cells()) * len(experiment.dense_seeds) * len(experiment.retrain_seeds)
        return 1 - self.missing_nets / nets

    @property
    def seconds(self) -> float:
        """Time that computing them took, of one core or GPU."""
        return float(self.results.origins["seconds"].sum())

    @property
    def stale(self) -> str:
        """Whether today's code makes other numbers, see `threeregime.results.provenance`."""
        return staleness(self.results.origins)


def shipped_tables(
    root: Path | None = None, names: Collection[str] = (), scales: Collection[str] = ()
) -> Iterator[ShippedTables]:
    """Yield every experiment and scale of which there are tables, by name, smallest scale first.

    Where an experiment is of CIFAR-10, tables of its JPEG copy come after those of the original.

    Args:
        root: folder of the tables; None: the shipped ones.
        names: of the experiments; none: all.
        scales: none: all.
    """
    for name in names or list_experiments():
        for scale in list_scales(name):
            wanted = not scales or scale in scales
            if wanted and tables_folder(root or tables.ROOT, name, scale).is_dir():
                yield from _of_experiment(load_experiment(name, scale), root or tables.ROOT)


def _of_experiment(asked: Experiment, root: Path) -> Iterator[ShippedTables]:
    stored = tables.stored_tables(asked, root)
    finished = frozenset(tables.nets_of_complete_fleets(stored))
    for experiment in asked.data_variants():
        results = tables.select_results(experiment, stored)
        if results is not None:
            yield ShippedTables(experiment, asked, results, finished)
