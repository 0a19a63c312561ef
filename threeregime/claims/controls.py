"""Negative controls: what the detectors say where the answer is known beforehand.

Copies that were never pruned must not be found in Regime I, copies that share no dense run must be,
and where temperatures are shuffled no statement on them may hold more often than by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from threeregime.data.registry import DATA_DIR, resident
from threeregime.data.task import stream
from threeregime.fleet.fleet import Fleet
from threeregime.metrics.pairs import measure_pairs
from threeregime.models.registry import builder
from threeregime.protocol import Protocol
from threeregime.pruning.magnitude import masks
from threeregime.results import Results
from threeregime.training.run import Run

KINDS = {True: "one dense run", False: "two dense runs"}


def pairs_of_copies(
    protocol: Protocol, dense_seeds: Sequence[int], retrain_seeds: Sequence[int]
) -> pd.DataFrame:
    """Train, prune and retrain a few nets here and now, and measure every pair of them.

    Args:
        protocol: what to do; its data must be here.
        dense_seeds: one dense run each.
        retrain_seeds: copies retrained from each.

    Returns:
        One row a pair: ``from`` (whether the copies share a dense run), ``lmc``, ``cka``.
    """
    data = resident(protocol.data, DATA_DIR, False, "cpu")
    build = builder(protocol.net, data)
    seeds = [stream("initial", seed) for seed in dense_seeds]
    dense = Fleet.initial(build, seeds)
    streams = [stream("dense", seed) for seed in dense_seeds]
    loader = data.loader(streams, protocol.dense.batch_size, protocol.data)
    _train(Run(dense, loader, protocol.dense), protocol.dense.stopped)
    members = list(itertools.product(range(len(dense_seeds)), retrain_seeds))
    state = {
        name: torch.stack([tensor[at] for at, _ in members])
        for name, tensor in dense.state().items()
    }
    fleet = Fleet(build, state)
    streams = [stream("retrain", dense_seeds[at], seed) for at, seed in members]
    loader = data.loader(streams, protocol.retraining.batch_size, protocol.data)
    run = Run(fleet, loader, protocol.retraining)
    pruning = protocol.pruning
    weights = {name: state[name] for name in fleet.prunable()}
    each = len(members)
    run.prune(masks(weights, [pruning.method] * each, [pruning.density] * each))
    _train(run, run.epochs)
    pairs = list(itertools.combinations(range(each), 2))
    found = measure_pairs(fleet, pairs, data, protocol.metrics.points, protocol.metrics.samples)
    return pd.DataFrame(
        {
            "from": [KINDS[members[a][0] == members[b][0]] for a, b in pairs],
            "lmc": found.lmc.numpy(),
            "cka": found.cka_softmax.numpy(),
        }
    )


def _train(run: Run, until: int) -> None:
    while run.epoch < until:
        run.run_epoch()


def shuffled(tables: Results, seed: int) -> Results:
    """The same tables with the temperatures shuffled, in each dense seed in another way."""
    generator = np.random.default_rng(seed)
    axis = tables.temperature
    values = np.sort(tables.nets[axis].unique())
    orders = {s: generator.permutation(values) for s in sorted(tables.nets["dense_seed"].unique())}

    def relabelled(rows: pd.DataFrame) -> pd.DataFrame:
        at = np.searchsorted(values, rows[axis])
        return rows.assign(
            **{axis: [orders[s][i] for s, i in zip(rows["dense_seed"], at, strict=True)]}
        )

    return replace(tables, nets=relabelled(tables.nets), pairs=relabelled(tables.pairs))
