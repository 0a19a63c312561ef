"""Shards: the Parquet files that a running sweep writes, one for each fleet and kind of rows.

``ROOT/EXPERIMENT/SCALE/KIND-FLEET.parquet``, where KIND is ``dense`` (a row per checkpoint of a
dense run), ``nets`` (a row per retrained net), ``pairs`` (a row per pair of copies) or, where the
protocol asks for it, ``early`` (a row per pair and early epoch of retraining). The provenance of
the fleet is JSON in the file's metadata, beside a checksum of it and of the rows. Files of before
there were checksums have none, and are read without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from threeregime._files import atomic_write
from threeregime.errors import DamagedFile, ThreeRegimeError
from threeregime.results.provenance import Record, check_record

KINDS = ("dense", "nets", "pairs", "early")
METADATA_KEY = b"threeregime"
CHECKSUM_KEY = b"threeregime.sha256"

def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_SEEDS_OF_PAIRS = dict.fromkeys(("dense_seed", "seed_a", "seed_b"), pa.types.is_integer)
_SIMILARITIES = dict.fromkeys(("lmc", "t_star", "cka_softmax", "cka_logits"), pa.types.is_floating)
_ERRORS = {"test_error": pa.types.is_floating, "train_error": pa.types.is_floating}
_OF_CELL = dict.fromkeys(("variant", "cell", "base", "fleet"), _is_text)
COLUMNS: dict[str, dict[str, Callable[[pa.DataType], bool]]] = {
    "dense": {
        **dict.fromkeys(("variant", "base", "fleet"), _is_text),
        "dense_seed": pa.types.is_integer,
        **_ERRORS,
        "diverged": pa.types.is_boolean,
    },
    "nets": {
        **_OF_CELL,
        **dict.fromkeys(("dense_seed", "retrain_seed"), pa.types.is_integer),
        **_ERRORS,
        "diverged": pa.types.is_boolean,
    },
    "pairs": {**_OF_CELL, **_SEEDS_OF_PAIRS, **_SIMILARITIES, "curve": pa.types.is_list},
    "early": {
        **_OF_CELL,
        **_SEEDS_OF_PAIRS,
        "epoch": pa.types.is_integer,
        **_SIMILARITIES,
        "test_error": pa.types.is_floating,
    },
}
"""The columns that the rows of a kind must have, and what their types must be. Besides, they have
the axes and may have more measurements."""
MEASUREMENTS = {*_SIMILARITIES, *_ERRORS, "curve", "hessian_trace", "hessian_top", "diverged"}
"""Columns that may be without a value, and do not tell rows apart."""


class DamagedTable(DamagedFile):
    """A table of results that cannot be used."""

    kind = "results table"
    remedy = "restore it, or run the sweep again: it sets the file aside and computes what was in it"


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


def write_shard(path: Path, rows: pd.DataFrame, record: Mapping[str, Any]) -> None:
    """Write the rows of a fleet with its provenance and a checksum, by atomic rename."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    text = json.dumps(record).encode()
    metadata = {**(table.schema.metadata or {}), METADATA_KEY: text}
    metadata[CHECKSUM_KEY] = checksum(table, text)
    atomic_write(path, lambda p: pq.write_table(table.replace_schema_metadata(metadata), p))


def read_shard(path: Path) -> tuple[pd.DataFrame, Record]:
    """Read a shard.

    Returns:
        Its rows and its provenance.

    Raises:
        DamagedTable: the file is damaged, or no shard.
    """
    table = read_table(path)
    return table.to_pandas(), shard_record(path, table)


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file of rows, and compare it with its checksum if it has one.

    Raises:
        DamagedTable: the file is damaged.
        FileNotFoundError: it is not there, or no longer.
        ThreeRegimeError: the file may not be read.
    """
    try:
        # Not as one of the files of a data set, which pyarrow looks for in the names of folders.
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ThreeRegimeError(f"{path} cannot be read: {error.strerror}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DamagedTable(path, str(error)) from error
    metadata = table.schema.metadata or {}
    expected = metadata.get(CHECKSUM_KEY)
    if expected is not None and expected != checksum(table, metadata.get(METADATA_KEY, b"")):
        raise DamagedTable(path, "its checksum is another one")
    return table


def checksum(table: pa.Table, record: bytes = b"") -> bytes:
    """Return the SHA-256 of rows, names of columns and the text of a record, in hexadecimal.

    It is of the values, not of the bytes of a file: those depend on the version of pyarrow.
    """
    digest = hashlib.sha256(record)
    for name in table.column_names:
        digest.update(json.dumps([name, table.column(name).to_pylist()]).encode())
    return digest.hexdigest().encode()


def shard_record(path: Path, table: pa.Table) -> Record:
    """Return the provenance in a shard's metadata.

    Raises:
        DamagedTable: there is none, or it is not what a sweep writes.
    """
    try:
        record: Record = json.loads(table.schema.metadata[METADATA_KEY])
        check_record(record)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise DamagedTable(path, f"its provenance: {error}") from error
    return record


def check_rows(path: Path, kind: str, table: pa.Table) -> None:
    """Check the columns of a table, that no row lacks its identity, and that none is there twice.

    Raises:
        DamagedTable: says what is wrong.
    """
    for name, fits in COLUMNS[kind].items():
        if name not in table.column_names:
            raise DamagedTable(path, f"it has no column {name}")
        if not fits(table.schema.field(name).type):
            raise DamagedTable(path, f"its column {name} is of type {table.schema.field(name).type}")
    identities = [name for name in COLUMNS[kind] if name not in MEASUREMENTS]
    for name in identities:
        if table.column(name).null_count:
            raise DamagedTable(path, f"its column {name} has empty values")
    for name in _ERRORS.keys() & set(table.column_names):
        extremes = pc.min_max(pc.filter(table.column(name), pc.is_finite(table.column(name))))
        if extremes["min"].is_valid and not 0 <= extremes["min"].as_py() <= extremes["max"].as_py() <= 1:
            raise DamagedTable(path, f"its column {name} has values that are no fraction")
    # Dense rows are told apart by their axes.
    keys = [n for n in table.column_names if n not in MEASUREMENTS] if kind == "dense" else identities
    if table.group_by(keys).aggregate([]).num_rows < table.num_rows:
        raise DamagedTable(path, "it has a row twice")
