"""Change packed tables as a test wants them; the shipped ones are copied first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa

from threeregime.results.packed import read_packed, write_packed


def change_rows(at: Path, kind: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Change the rows of one kind in a folder of packed tables."""
    table = read_packed(at, kind)
    assert table is not None
    rows = change(table.to_pandas())
    write_packed(at, kind, [pa.Table.from_pandas(rows, schema=table.schema, preserve_index=False)])


def drop_fleet(at: Path, kind: str) -> None:
    """Drop the rows that one fleet has of a kind."""
    change_rows(at, kind, lambda rows: rows[rows["fleet"] != rows["fleet"].min()])
