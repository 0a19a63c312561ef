"""Rows of tables that are complete: what a test does not say has a value of the right type."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from threeregime.results.shards import COLUMNS

VALUES = {pa.int64(): 0, pa.float64(): 0.5, pa.bool_(): False, pa.list_(pa.float64()): [0.5]}


def complete_rows(kind: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that rows of a kind must have, and leave out those of other kinds."""
    others = {name for columns in COLUMNS.values() for name in columns} - set(COLUMNS[kind])
    rows = rows.drop(columns=[name for name in rows if name in others])
    for name, fits in COLUMNS[kind].items():
        if name not in rows:
            rows[name] = pd.Series([_value(fits)] * len(rows), index=rows.index)
    return rows


def _value(fits: Any) -> object:
    return next((value for kind, value in VALUES.items() if fits(kind)), "")
