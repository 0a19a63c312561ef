"""What a folder holds of one experiment at one scale: packed tables and shards, read as one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd
import pyarrow as pa

from threeregime.errors import ThreeRegimeError
from threeregime.results.packed import (
    drop_metadata,
    packed_path,
    provenance_path,
    read_packed,
    read_provenance,
)
from threeregime.results.shards import KINDS, Record, read_table, shard_paths, shard_record


@dataclass(frozen=True)
class _Kind:
    """One kind of rows: the packed table, the tables of fleets not in it, the records of all."""

    packed: pa.Table | None
    sharded: dict[str, pa.Table]
    records: dict[str, Record]


class StoredTables:
    """The rows of one folder, of whatever protocol; each file is read once, when it is needed.

    A fleet that is both in a packed table and in a shard of that kind is read from the packed one.

    Args:
        at: the folder, see `threeregime.results.shards.tables_folder`; it need not exist.

    Attributes:
        shards: of each kind, the paths of its shards by their fleet.
    """

    def __init__(self, at: Path) -> None:
        self.at = at
        # Listed before anything is read: what is packed meanwhile is then found in both places.
        self.shards = {kind: shard_paths(at, kind) for kind in KINDS}
        self._kinds: dict[str, _Kind] = {}

    def rows(self, kind: str) -> pd.DataFrame:
        """Return the rows of one kind in any order; without columns where there are none.

        Raises:
            ThreeRegimeError: a file is damaged, or the provenance of a fleet is missing.
        """
        packed, sharded = self.packed(kind), self.sharded(kind).values()
        tables = [*sharded] if packed is None else [packed, *sharded]
        if not tables:
            return pd.DataFrame()
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()

    def packed(self, kind: str) -> pa.Table | None:
        """Return the packed table of one kind, if there is one."""
        return self._read(kind).packed

    def sharded(self, kind: str) -> dict[str, pa.Table]:
        """Return the tables of one kind of the fleets that are not packed, by fleet."""
        return self._read(kind).sharded

    def records(self, kind: str) -> dict[str, Record]:
        """Return the provenance of the fleets that have rows of one kind, sorted by fleet."""
        return self._read(kind).records

    def complete(self) -> set[str]:
        """Return the retrained fleets that have all they were asked for.

        These are nets, pairs and, where their protocol has early epochs, the early rows. A sweep
        that is killed while it writes a fleet leaves it without pairs, which come last.
        """
        records, early = self.records("nets"), self.records("early")
        both = records.keys() & self.records("pairs").keys()
        return {fleet for fleet in both if fleet in early or not _asks_for_early(records[fleet])}

    def _read(self, kind: str) -> _Kind:
        if kind not in self._kinds:
            packed = read_packed(self.at, kind)
            records = {} if packed is None else self._packed_records(kind, packed)
            sharded = {}
            for fleet, path in self.shards[kind].items():
                if fleet not in records:
                    table = read_table(path)
                    records[fleet] = shard_record(path, table)
                    sharded[fleet] = drop_metadata(table)
            self._kinds[kind] = _Kind(packed, sharded, dict(sorted(records.items())))
        return self._kinds[kind]

    def _packed_records(self, kind: str, table: pa.Table) -> dict[str, Record]:
        fleets = table.column("fleet").unique().to_pylist()
        if missing := set(fleets) - self._provenance.keys():
            raise ThreeRegimeError(
                f"{provenance_path(self.at)} has no record of fleet {min(missing)}: restore it, or "
                f"delete {packed_path(self.at, kind)} and run the sweep again"
            )
        return {fleet: self._provenance[fleet] for fleet in fleets}

    @cached_property
    def _provenance(self) -> dict[str, Record]:
        return read_provenance(self.at)


def _asks_for_early(record: Record) -> bool:
    # All members of a fleet share their metrics.
    return any("early" in p.get("metrics", {}) for p in record.get("protocols", {}).values())
