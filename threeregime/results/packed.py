"""Packed tables: one Parquet file for each kind of rows, and one JSON file of provenance.

``ROOT/EXPERIMENT/SCALE/KIND.parquet`` holds the rows of many fleets; ``provenance.json`` beside it
has a record for each fleet, and every protocol once, under its hash. The same rows are always the
same bytes, however many times and in which order their shards were merged.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from threeregime._files import atomic_write
from threeregime.results.provenance import Record, check_record
from threeregime.results.shards import (
    CHECKSUM_KEY,
    DamagedTable,
    check_rows,
    checksum,
    read_table,
)

# The order of columns; before them are the variant and the axes.
SEEDS = ("dense_seed", "retrain_seed", "seed_a", "seed_b")
VALUES = (
    *("lmc", "t_star", "curve", "cka_softmax", "cka_logits"),
    *("test_error", "train_error", "diverged", "hessian_trace", "hessian_top"),
)
IDENTITIES = ("cell", "base", "fleet")
COMPRESSION_LEVEL = 19


def packed_path(at: Path, kind: str) -> Path:
    """Return the path of the packed table of one kind in a folder."""
    return at / f"{kind}.parquet"


def provenance_path(at: Path) -> Path:
    """Return the path of the provenance of a folder's packed tables."""
    return at / "provenance.json"


def read_packed(at: Path, kind: str) -> pa.Table | None:
    """Read the packed table of one kind; None where a folder has none.

    Raises:
        DamagedTable: the file is damaged.
    """
    path = packed_path(at, kind)
    if not path.exists():
        return None
    table = read_table(path)
    check_rows(path, kind, table)
    return table


def write_packed(at: Path, kind: str, tables: Sequence[pa.Table]) -> None:
    """Write the packed table of one kind, by atomic rename.

    Args:
        at: the folder.
        kind: of the rows.
        tables: rows of distinct fleets; where one lacks a column its rows are null there.
    """
    table = pa.concat_tables([drop_metadata(t) for t in tables], promote_options="permissive")
    axes = dict.fromkeys(name for t in tables for name in _axes(t.column_names))
    order = [*axes, *SEEDS, "epoch", *VALUES]
    names = sorted(table.column_names, key=lambda name: _rank(name, order))
    keys = [name for name in names if name in (*axes, *SEEDS, "epoch", "fleet")]
    table = table.select(names).sort_by([(name, "ascending") for name in keys]).combine_chunks()
    table = table.replace_schema_metadata({CHECKSUM_KEY: checksum(table)})

    def write(path: Path) -> None:
        pq.write_table(table, path, compression="zstd", compression_level=COMPRESSION_LEVEL)

    atomic_write(packed_path(at, kind), write)


def drop_metadata(table: pa.Table) -> pa.Table:
    """Return a table without what its file says beside its rows."""
    return table.replace_schema_metadata(None)


def _axes(names: Iterable[str]) -> Iterable[str]:
    """Return the columns before the seeds: the variant and the axes."""
    return itertools.takewhile(lambda name: name != SEEDS[0], names)


def _rank(name: str, order: Sequence[str]) -> tuple[int, int, str]:
    """Return what columns are sorted by: in order, then others by name, then identities."""
    if name in IDENTITIES:
        return (2, IDENTITIES.index(name), name)
    return (0, order.index(name), name) if name in order else (1, 0, name)


def read_provenance(at: Path) -> dict[str, Record]:
    """Read the records of a folder's packed fleets; empty where it has no packed tables.

    Raises:
        DamagedTable: the file is damaged, or a protocol in it does not have its hash.
    """
    path = provenance_path(at)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        protocols = content["protocols"]
        if wrong := [name for name, protocol in protocols.items() if _hash(protocol) != name]:
            raise ValueError(f"protocol {wrong[0]} was changed")
        records = {
            fleet: {**record, "protocols": {n: protocols[h] for n, h in record["protocols"].items()}}
            for fleet, record in content["fleets"].items()
        }
        for record in records.values():
            check_record(record)
        return records
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError) as error:
        reason = f"provenance of packed tables: {type(error).__name__}: {error}"
        raise DamagedTable(path, reason) from error


def write_provenance(at: Path, records: Mapping[str, Record]) -> None:
    """Write the records of packed fleets, one line for each protocol and fleet, by atomic rename."""
    protocols: dict[str, object] = {}
    fleets: dict[str, Record] = {}
    for fleet, record in records.items():
        # A dense fleet names its protocol by the sections that its numbers depend on.
        hashes = {name: _hash(protocol) for name, protocol in record["protocols"].items()}
        protocols |= {hashes[name]: protocol for name, protocol in record["protocols"].items()}
        fleets[fleet] = {**record, "protocols": hashes}
    sections = (_section("protocols", protocols), _section("fleets", fleets))
    text = "{\n" + ",\n".join(sections) + "\n}\n"
    atomic_write(provenance_path(at), lambda path: path.write_text(text, encoding="utf-8"))


def _section(name: str, entries: Mapping[str, object]) -> str:
    lines = [f"  {json.dumps(key)}: {json.dumps(entries[key])}" for key in sorted(entries)]
    return f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }"


def _hash(protocol: object) -> str:
    """Return the hash of a protocol's plain values, as `threeregime.protocol.Protocol.hash`."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:12]
