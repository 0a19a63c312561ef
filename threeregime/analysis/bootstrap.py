"""Bootstrap over the design: dense seeds first, then what was retrained from each.

Copies retrained from one dense run share its weights, so they are not independent draws. Each
replicate therefore draws dense seeds with replacement and then, inside each of them, nets (or pairs
of nets) with replacement. All cells share the draw of dense seeds, since the checkpoints of a dense
run appear in every cell; each cell has its own draws inside the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from threeregime.errors import ThreeRegimeError

Array = NDArray[np.float64]
# Replicates per chunk: bounds the memory, and is part of what fixes the random draws.
_CHUNK = 100


def table_to_arrays(
    table: pd.DataFrame,
    cells: pd.MultiIndex,
    dense_seeds: Sequence[int],
    keys: Sequence[str],
    columns: Sequence[str],
) -> dict[str, Array]:
    """Arrange columns of a long table by cell and dense seed.

    Args:
        table: one row per net or pair, with the two axes of ``cells`` and ``dense_seed``.
        cells: the C cells, by (temperature, load).
        dense_seeds: the D dense seeds, sorted.
        keys: the columns that distinguish the rows of one cell and dense seed.
        columns: the columns to arrange; a column that the table lacks becomes NaN.

    Returns:
        For each column an array [C, D, R], with R the largest number of rows of a cell and dense
        seed; finite numbers first, then NaN. It does not depend on the order of the rows.

    Raises:
        ThreeRegimeError: If two rows describe the same net or pair.
    """
    axes = [str(name) for name in cells.names]
    groups = [*axes, "dense_seed"]
    row_keys = [*groups, *keys]
    table = table.sort_values(row_keys, ignore_index=True)
    if table.duplicated(row_keys).any():
        raise ThreeRegimeError(
            f"two rows have the same {', '.join(row_keys)}: drop one, or choose one variant"
        )
    cell = cells.get_indexer(pd.MultiIndex.from_frame(table[axes]))
    dense = np.searchsorted(np.asarray(dense_seeds), table["dense_seed"].to_numpy())
    rank = table.groupby(groups, sort=False).cumcount().to_numpy()
    shape = (len(cells), len(dense_seeds), int(rank.max(initial=0)) + 1)
    arrays = {}
    for column in columns:
        values = np.full(shape, np.nan)
        if column in table:
            values[cell, dense, rank] = table[column].to_numpy(dtype=float, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        order = np.argsort(np.isnan(values), axis=-1, kind="stable")
        arrays[column] = np.take_along_axis(values, order, axis=-1)
    return arrays


def mean(values: Array, axis: int | tuple[int, ...]) -> Array:
    """Mean over the finite numbers; NaN, without a warning, where there are none."""
    finite = np.isfinite(values)
    return _quotient(np.where(finite, values, 0.0).sum(axis=axis), finite.sum(axis=axis))


def _quotient(total: Array, count: NDArray[np.int64]) -> Array:
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def resample(arrays: Mapping[str, Array], dense: NDArray[np.int64], seed: int) -> dict[str, Array]:
    """Bootstrap means of the arrays of `table_to_arrays`, all of one shape.

    Args:
        arrays: the values of each metric [C, D, R]; metrics share their draws, so that a replicate
            has the LMC and the CKA of the same pairs.
        dense: the dense seeds of each replicate [B, D], as indices.
        seed: of the draws inside the dense seeds.

    Returns:
        For each metric the replicates of its cell means [B, C]; NaN where a replicate drew only
        dense seeds whose nets all diverged.
    """
    generator = np.random.default_rng(seed)
    shape = next(iter(arrays.values())).shape
    cell = np.arange(shape[0])
    sizes = {name: np.isfinite(values).sum(-1) for name, values in arrays.items()}
    chunks: dict[str, list[Array]] = {name: [] for name in arrays}
    for start in range(0, len(dense), _CHUNK):
        seeds = dense[start : start + _CHUNK]
        uniform = generator.random((len(seeds), shape[1], *shape[::2]), dtype=np.float32)
        for name, values in arrays.items():
            # Swapped to [D, C, R] so that one look-up gives the rows of the seeds: [b, D, C].
            size = sizes[name].T[seeds][..., None]
            index = np.minimum((uniform * size).astype(np.intp), np.maximum(size - 1, 0))
            sample = values.transpose(1, 0, 2)[seeds[:, :, None, None], cell[:, None], index]
            valid = np.arange(shape[2]) < size
            total = np.where(valid, sample, 0.0).sum(axis=(1, 3))
            chunks[name].append(_quotient(total, size.sum(axis=(1, 3))))
    return {name: np.concatenate(parts) for name, parts in chunks.items()}


def draw_dense_seeds(replicates: int, dense_seeds: int, seed: int) -> NDArray[np.int64]:
    """Draw dense seeds with replacement, as indices [replicates, dense_seeds]."""
    return np.random.default_rng(seed).integers(dense_seeds, size=(replicates, dense_seeds))


def interval(replicates: Array, level: float = 0.95) -> tuple[Array, Array]:
    """Percentile interval over the first axis; NaN where there are no replicates."""
    shape = replicates.shape[1:]
    flat = replicates.reshape(len(replicates), int(np.prod(shape)))
    low, high = np.full(flat.shape[1], np.nan), np.full(flat.shape[1], np.nan)
    known = np.isfinite(flat).any(axis=0)
    if known.any():
        tails = [50 * (1 - level), 50 * (1 + level)]
        low[known], high[known] = np.nanpercentile(flat[:, known], tails, axis=0)
    return low.reshape(shape), high.reshape(shape)
