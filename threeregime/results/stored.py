"""What a folder holds of one experiment at one scale: packed tables and shards, read as one."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from threeregime.errors import ThreeRegimeError
from threeregime.results.packed import (
    drop_metadata,
    packed_path,
    provenance_path,
    read_packed,
    read_provenance,
)
from threeregime.results.provenance import Record
from threeregime.results.shards import (
    KINDS,
    DamagedTable,
    check_rows,
    read_table,
    shard_paths,
    shard_record,
)

READ_ATTEMPTS = 5
"""Attempts to read a kind: a file may be packed, or set aside, after it was listed."""


@dataclass(frozen=True)
class _Kind:
    """One kind of rows: the packed table, the tables of fleets not in it, the records of all."""

    packed: pa.Table | None
    sharded: dict[str, pa.Table]
    records: dict[str, Record]


class StoredTables:
    """The rows of one folder, of whatever protocol; each file is read once, when it is needed.

    A fleet that is both in a packed table and in a shard of that kind is read from the packed one.
    Damaged files count as missing; each is reported once, on standard error.

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
        self._provenance: dict[str, Record] | None = None
        self._damaged: dict[Path, DamagedTable] = {}

    def rows(self, kind: str) -> pd.DataFrame:
        """Return the rows of one kind in any order; without columns where there are none.

        Of retrained fleets, only those that are complete have rows: others have nets without pairs.
        """
        packed, sharded = self.packed(kind), self.sharded(kind)
        tables = [*sharded.values()] if packed is None else [packed, *sharded.values()]
        if kind != "dense":
            complete = self.complete()
            if self.records(kind).keys() - complete:
                wanted = pa.array(sorted(complete), pa.string())
                tables = [t.filter(pc.is_in(t.column("fleet"), wanted)) for t in tables]
        if not sum(len(table) for table in tables):
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

    def damaged(self) -> list[DamagedTable]:
        """Return what is wrong with the damaged files of all kinds."""
        for kind in KINDS:
            self._read(kind)
        return list(self._damaged.values())

    def _read(self, kind: str) -> _Kind:
        attempts = iter(range(READ_ATTEMPTS))
        while kind not in self._kinds:
            try:
                self._kinds[kind] = self._read_files(kind)
            except FileNotFoundError as error:
                if next(attempts, None) is None:
                    raise ThreeRegimeError(f"{self.at} changes all the time: try later") from error
                self.shards[kind] = shard_paths(self.at, kind)
        return self._kinds[kind]

    def _read_files(self, kind: str) -> _Kind:
        packed, records = self._read_packed(kind)
        sharded = {}
        for fleet, path in self.shards[kind].items():
            if fleet not in records:
                try:
                    table = read_table(path)
                    check_rows(path, kind, table)
                    records[fleet] = _record_of(path, fleet, table)
                except DamagedTable as error:
                    self._note(error)
                else:
                    sharded[fleet] = drop_metadata(table)
        return _Kind(packed, sharded, dict(sorted(records.items())))

    def _read_packed(self, kind: str) -> tuple[pa.Table | None, dict[str, Record]]:
        """Return the packed table of one kind and the records of its fleets."""
        path = packed_path(self.at, kind)
        try:
            packed = read_packed(self.at, kind)
            if packed is None:
                return None, {}
            fleets = packed.column("fleet").unique().to_pylist()
            if self._provenance is None or set(fleets) - self._provenance.keys():
                # Also where it was read already: fleets may have been packed meanwhile.
                self._provenance = read_provenance(self.at)
            if missing := set(fleets) - self._provenance.keys():
                name = provenance_path(self.at).name
                raise DamagedTable(path, f"{name} has no record of fleet {min(missing)}")
        except DamagedTable as error:
            self._note(error)
            if error.path != path:
                # Rows are nothing without their provenance.
                self._note(DamagedTable(path, f"{error.path.name} is damaged"))
            return None, {}
        return packed, {fleet: self._provenance[fleet] for fleet in fleets}

    def _note(self, error: DamagedTable) -> None:
        self._damaged[error.path] = error
        _report(str(error))


def set_aside_damaged(at: Path) -> None:
    """Rename the damaged files in a folder to NAME.broken, so that a sweep computes their rows.

    Nothing is deleted; only an earlier file of the same name and ending is replaced.
    """
    for error in StoredTables(at).damaged():
        with suppress(FileNotFoundError):  # another process was faster
            os.replace(error.path, error.path.with_name(f"{error.path.name}.broken"))


def _record_of(path: Path, fleet: str, table: pa.Table) -> Record:
    """Return the provenance in a shard, which must be that of the fleet in its name."""
    record = shard_record(path, table)
    if record.get("fleet", fleet) != fleet or set(table.column("fleet").to_pylist()) != {fleet}:
        raise DamagedTable(path, "it is of another fleet than its name says")
    return record


@functools.cache
def _report(line: str) -> None:
    """Print a line on standard error, once in a process."""
    print(f"threeregime: {line}", file=sys.stderr)


def _asks_for_early(record: Record) -> bool:
    # All members of a fleet share their metrics.
    return any("early" in p.get("metrics", {}) for p in record.get("protocols", {}).values())
