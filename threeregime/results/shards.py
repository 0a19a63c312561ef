"""Shards: the Parquet files that a running sweep writes, one for each fleet and kind of rows.

``ROOT/EXPERIMENT/SCALE/KIND-FLEET.parquet``, where KIND is ``dense`` (a row per checkpoint of a
dense run), ``nets`` (a row per retrained net), ``pairs`` (a row per pair of copies) or, where the
protocol asks for it, ``early`` (a row per pair and early epoch of retraining). The provenance of
the fleet is JSON in the file's metadata.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from threeregime.errors import ThreeRegimeError

KINDS = ("dense", "nets", "pairs", "early")
METADATA_KEY = b"threeregime"

Record = dict[str, Any]
"""Provenance of one fleet, as plain values."""


def tables_folder(root: Path, experiment: str, scale: str) -> Path:
    """Return the folder of an experiment's tables; one given by a TOML file has the file's name."""
    return root / Path(experiment).stem / scale


def shard_path(at: Path, kind: str, fleet: str) -> Path:
    """Return the path of a fleet's shard in a folder."""
    return at / f"{kind}-{fleet}.parquet"


def shard_paths(at: Path, kind: str) -> dict[str, Path]:
    """Return the shards of one kind in a folder by their fleet, sorted; other files are ignored."""
    paths = sorted(at.glob(f"{kind}-*.parquet"))
    return {path.stem.removeprefix(f"{kind}-"): path for path in paths}


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary path)`` and rename: readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_shard(path: Path, rows: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write the rows of a fleet with its provenance, by atomic rename."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: json.dumps(record).encode()}
    atomic_write(path, lambda p: pq.write_table(table.replace_schema_metadata(metadata), p))


def read_shard(path: Path) -> tuple[pd.DataFrame, Record]:
    """Read a shard.

    Returns:
        Its rows and its provenance.

    Raises:
        ThreeRegimeError: the file is damaged, or no shard.
    """
    table = read_table(path)
    return table.to_pandas(), shard_record(path, table)


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file of rows.

    Raises:
        ThreeRegimeError: the file is damaged.
    """
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise damaged(path, error) from error


def shard_record(path: Path, table: pa.Table) -> Record:
    """Return the provenance in a shard's metadata.

    Raises:
        ThreeRegimeError: there is none.
    """
    try:
        record: Record = json.loads(table.schema.metadata[METADATA_KEY])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error
    return record


def damaged(path: Path, error: Exception) -> ThreeRegimeError:
    """Return the error for a file that cannot be read as a table of results."""
    return ThreeRegimeError(
        f"{path} is not a results table ({error}); delete it and run the sweep again"
    )
