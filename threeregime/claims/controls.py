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

from threeregime.data import DATA_DIR, load_task, stream_seed
from threeregime.fleet import Fleet, candidate_engines
from threeregime.metrics import measure_pairs
from threeregime.models import net_builder
from threeregime.protocol import Protocol, Pruning
from threeregime.pruning import prune_masks
from threeregime.results import Results
from threeregime.training import train

KINDS = {True: "one dense run", False: "two dense runs"}


def pairs_of_copies(
    protocol: Protocol,
    prunings: Sequence[Pruning],
    dense_seeds: Sequence[int],
    retrain_seeds: Sequence[int],
) -> pd.DataFrame:
    """Train, prune and retrain a few nets now, and measure every pair of copies pruned alike.

    Args:
        protocol: data, net, dense run, retraining and metrics.
        prunings: how the dense nets are pruned or quantized; one group of copies each.
        dense_seeds: one dense run each.
        retrain_seeds: copies retrained from each dense run, in each group.

    Returns:
        One row a pair: ``pruning`` (index of the group), ``from`` (whether the copies share a dense
        run), ``lmc``, ``cka``.
    """
    task = load_task(protocol.data, DATA_DIR, False, "cpu")
    initial = [stream_seed("initial", seed) for seed in dense_seeds]
    dense = Fleet.initial(net_builder(protocol.net, task), initial)
    seeds = [stream_seed("dense", seed) for seed in dense_seeds]
    train(dense, task, protocol.dense, seeds, epochs=protocol.dense.stopped)
    groups, runs = range(len(prunings)), range(len(dense_seeds))
    members = list(itertools.product(groups, runs, retrain_seeds))
    state = dense.select([run for _, run, _ in members]).state()
    engine = candidate_engines("cpu", len(members))[0]
    copies = Fleet(net_builder(protocol.net, task), state, **engine.fleet_options)
    chosen = [prunings[group] for group, _, _ in members]
    masks = prune_masks(
        copies, [p.density for p in chosen], [p.method for p in chosen], [p.group for p in chosen]
    )
    run = train(
        copies,
        task,
        protocol.retraining,
        [stream_seed("retrain", dense_seeds[run], seed) for _, run, seed in members],
        masks=masks,
        bits=[p.bits for p in chosen],
    )
    pairs = [
        (a, b)
        for a, b in itertools.combinations(range(len(members)), 2)
        if members[a][0] == members[b][0]
    ]
    metrics = protocol.metrics
    with run.compressed():
        found = measure_pairs(copies, pairs, task, metrics.points, metrics.samples)
    return pd.DataFrame(
        {
            "pruning": [members[a][0] for a, _ in pairs],
            "from": [KINDS[members[a][1] == members[b][1]] for a, b in pairs],
            "lmc": found.lmc.numpy(),
            "cka": found.cka_softmax.numpy(),
        }
    )


def shuffle_temperatures(tables: Results, seed: int) -> Results:
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
