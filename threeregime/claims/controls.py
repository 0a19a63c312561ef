"""Negative controls: cases where the right verdict is known beforehand.

Copies that were never pruned must not be in Regime I, copies of different dense runs must be, and
with shuffled temperatures no statement about them may hold more often than by chance.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from threeregime.data import DATA_DIR, load_task, stream_seed
from threeregime.fleet import Fleet, cpu_engine
from threeregime.metrics import measure_pairs
from threeregime.models import net_builder
from threeregime.protocol import Protocol, Pruning
from threeregime.pruning import prune_masks
from threeregime.results import Results
from threeregime.training import train

ORIGINS = {True: "one dense run", False: "two dense runs"}


def pairs_of_copies(
    protocol: Protocol,
    prunings: Sequence[Pruning],
    dense_seeds: Sequence[int],
    retrain_seeds: Sequence[int],
) -> pd.DataFrame:
    """Train, prune and retrain a few nets, and measure every pair of equally pruned copies.

    Args:
        protocol: data, net, dense run, retraining and metrics.
        prunings: how the dense nets are pruned or quantized; one group of copies each.
        dense_seeds: one dense run each.
        retrain_seeds: copies retrained from each dense run, in each group.

    Returns:
        One row per pair: ``pruning`` (index of the group), ``from`` (whether the copies share a
        dense run), ``lmc``, ``cka``.
    """
    task = load_task(protocol.data, DATA_DIR, False, "cpu")
    initial = [stream_seed("initial", seed) for seed in dense_seeds]
    build = net_builder(protocol.net, task)
    options = cpu_engine(build, task.dummy_input(1).shape).fleet_options
    dense = Fleet.initial(build, initial, **options)
    seeds = [stream_seed("dense", seed) for seed in dense_seeds]
    train(dense, task, protocol.dense, seeds, epochs=protocol.dense.stopped)
    members = list(itertools.product(range(len(prunings)), range(len(dense_seeds)), retrain_seeds))
    state = dense.select([run for _, run, _ in members]).state()
    copies = Fleet(build, state, **options)
    pruning = [prunings[group] for group, _, _ in members]
    masks = prune_masks(
        copies,
        [p.density for p in pruning],
        [p.method for p in pruning],
        [p.group for p in pruning],
    )
    run = train(
        copies,
        task,
        protocol.retraining,
        [stream_seed("retrain", dense_seeds[run], seed) for _, run, seed in members],
        masks=masks,
        bits=[p.bits for p in pruning],
    )
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(members)), 2)
        if members[a][0] == members[b][0]
    ]
    metrics = protocol.metrics
    with run.evaluated_weights():
        measurements = measure_pairs(copies, pairs, task, metrics.points, metrics.samples)
    return pd.DataFrame(
        {
            "pruning": [members[a][0] for a, _ in pairs],
            "from": [ORIGINS[members[a][1] == members[b][1]] for a, b in pairs],
            "lmc": measurements.lmc.numpy(),
            "cka": measurements.cka_softmax.numpy(),
        }
    )


def shuffle_temperatures(tables: Results, seed: int) -> Results:
    """Shuffle the temperatures of tables, independently in each dense seed."""
    generator = np.random.default_rng(seed)
    axis = tables.temperature
    values = np.sort(tables.nets[axis].unique())
    orders = {s: generator.permutation(values) for s in sorted(tables.nets["dense_seed"].unique())}

    def relabel(rows: pd.DataFrame) -> pd.DataFrame:
        index = np.searchsorted(values, rows[axis])
        shuffled = [orders[s][i] for s, i in zip(rows["dense_seed"], index, strict=True)]
        return rows.assign(**{axis: shuffled})

    return replace(tables, nets=relabel(tables.nets), pairs=relabel(tables.pairs))
