"""Resampling that respects the design: dense seeds first, then what was retrained from each.

The copies retrained from one dense run share its weights, so they are no independent draws. A
replicate therefore draws dense seeds with replacement and then, inside each one drawn, its nets (or
pairs of nets) with replacement. All cells share the draw of dense seeds, because the checkpoints of
one dense run appear in every cell; the inner draws are each cell's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.errors import ThreeRegimeError

Array = NDArray[np.float64]
# Replicates drawn at a time: bounds the memory, and is part of what fixes the random draws.
_CHUNK = 100


def blocks(
    table: pd.DataFrame,
    cells: pd.MultiIndex,
    dense_seeds: Sequence[int],
    inner: Sequence[str],
    columns: Sequence[str],
) -> dict[str, Array]:
    """Lay a long table out by cell and dense seed.

    Args:
        table: one row per net or pair, with the two axes of ``cells`` and ``dense_seed``.
        cells: the C cells, by (temperature, load).
        dense_seeds: the D dense seeds, sorted.
        inner: the columns that tell the rows of one cell and dense seed apart.
        columns: the numbers to lay out; a column that the table lacks becomes NaN.

    Returns:
        For each column an array [C, D, R], R the most rows that a cell has under one dense seed,
        the numbers first and NaN after them. It does not depend on the order of the rows.

    Raises:
        ThreeRegimeError: two rows describe the same net or pair.
    """
    axes = [str(name) for name in cells.names]
    keys = [*axes, "dense_seed"]
    table = table.sort_values([*keys, *inner], ignore_index=True)
    if table.duplicated([*keys, *inner]).any():
        raise ThreeRegimeError(
            f"two rows have the same {', '.join([*keys, *inner])}: drop one, or choose one variant"
        )
    cell = cells.get_indexer(pd.MultiIndex.from_frame(table[axes]))
    dense = np.searchsorted(np.asarray(dense_seeds), table["dense_seed"].to_numpy())
    rank = table.groupby(keys, sort=False).cumcount().to_numpy()
    shape = (len(cells), len(dense_seeds), int(rank.max(initial=0)) + 1)
    laid = {}
    for column in columns:
        values = np.full(shape, np.nan)
        if column in table:
            values[cell, dense, rank] = table[column].to_numpy(dtype=float, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        order = np.argsort(np.isnan(values), axis=-1, kind="stable")
        laid[column] = np.take_along_axis(values, order, axis=-1)
    return laid


def mean(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Mean over the numbers that are there; NaN, without a warning, where there are none."""
    there = np.isfinite(values)
    count = there.sum(axis=axis)
    total = np.where(there, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def resample(laid: Mapping[str, Array], dense: NDArray[np.int64], seed: int) -> dict[str, Array]:
    """Bootstrap means of arrays as `blocks` makes them, all of one shape.

    Args:
        laid: the numbers of each metric [C, D, R]; metrics share their draws, so that a replicate
            has the LMC and the CKA of the same pairs.
        dense: the dense seeds drawn for each replicate [B, D], as indices.
        seed: of the draws inside the dense seeds.

    Returns:
        For each metric the replicates of its cell means [B, C]; NaN where a replicate drew only
        dense seeds whose nets all diverged.
    """
    generator = np.random.default_rng(seed)
    shape = next(iter(laid.values())).shape
    cell = np.arange(shape[0])
    counts = {name: np.isfinite(values).sum(-1) for name, values in laid.items()}
    out: dict[str, list[Array]] = {name: [] for name in laid}
    for start in range(0, len(dense), _CHUNK):
        drawn = dense[start : start + _CHUNK]
        uniform = generator.random((len(drawn), shape[1], *shape[::2]), dtype=np.float32)
        for name, values in laid.items():
            # Swapped to [D, C, R] so that one look-up gives the drawn seeds: [b, D, C].
            have = counts[name].T[drawn][..., None]
            pick = np.minimum((uniform * have).astype(np.intp), np.maximum(have - 1, 0))
            found = values.transpose(1, 0, 2)[drawn[:, :, None, None], cell[:, None], pick]
            use = np.arange(shape[2]) < have
            total = np.where(use, found, 0.0).sum(axis=(1, 3))
            count = have.sum(axis=(1, 3))
            gap = np.full(total.shape, np.nan)
            out[name].append(np.divide(total, count, out=gap, where=count > 0))
    return {name: np.concatenate(parts) for name, parts in out.items()}


def draw_dense(replicates: int, dense_seeds: int, seed: int) -> NDArray[np.int64]:
    """Dense seeds drawn with replacement, as indices [replicates, dense_seeds]."""
    return np.random.default_rng(seed).integers(dense_seeds, size=(replicates, dense_seeds))


def interval(replicates: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Percentile interval over the first axis, NaN where there are no replicates."""
    shape = replicates.shape[1:]
    flat = replicates.reshape(len(replicates), int(np.prod(shape)))
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    some = np.isfinite(flat).any(axis=0)
    if some.any():
        tails = [50 * (1 - level), 50 * (1 + level)]
        low[some], high[some] = np.nanpercentile(flat[:, some], tails, axis=0)
    return low.reshape(shape), high.reshape(shape)
