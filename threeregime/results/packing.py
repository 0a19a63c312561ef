"""Packing: merge the shards that sweeps left into the packed tables of their folders."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from threeregime.errors import ThreeRegimeError
from threeregime.results.packed import write_packed, write_provenance
from threeregime.results.provenance import Record
from threeregime.results.stored import StoredTables


def pack(root: Path, studies: Collection[str] = ()) -> Iterator[tuple[str, str, int]]:
    """Pack the tables of some studies at all their scales.

    Args:
        root: folder of the tables.
        studies: names of their folders; none: all.

    Yields:
        Name and scale of each folder in which there were shards, and how many were merged.

    Raises:
        ThreeRegimeError: there are no tables of a study, or a file is damaged.
    """
    folders = sorted(path for path in root.glob("*/*") if path.is_dir())
    known = sorted({at.parent.name for at in folders})
    if unknown := sorted(set(studies) - set(known)):
        choice = f"one of {', '.join(known)}" if known else "there are none"
        raise ThreeRegimeError(f"{root} has no tables of {unknown[0]!r}: {choice}")
    for at in folders:
        if not studies or at.parent.name in studies:
            merged = pack_folder(at)
            if merged:
                yield at.parent.name, at.name, merged


def pack_folder(at: Path) -> int:
    """Merge the shards in a folder into its packed tables, and remove them.

    Each file is written whole and renamed before a shard is removed. A process that is killed
    leaves rows in both places, which readers and the next call count once. Shards of retrained
    fleets that are not complete stay: their sweep writes them again.

    Returns:
        Number of shards that were merged.

    Raises:
        ThreeRegimeError: a file is damaged, or another process is packing the folder.
    """
    with _locked(at):
        stored = StoredTables(at)
        for error in stored.damaged():
            raise error
        complete = stored.complete()
        merged = {
            kind: {f: path for f, path in paths.items() if kind == "dense" or f in complete}
            for kind, paths in stored.shards.items()
        }
        if not any(merged.values()):
            return 0
        # Before the rows: no row is ever without its provenance.
        write_provenance(at, _records(stored, merged))
        for kind, fleets in merged.items():
            if fleets:
                new = [table for f, table in stored.sharded(kind).items() if f in fleets]
                old = stored.packed(kind)
                write_packed(at, kind, new if old is None else [old, *new])
        paths = [path for of_kind in merged.values() for path in of_kind.values()]
        for path in paths:
            path.unlink()
        return len(paths)


def _records(stored: StoredTables, merged: Mapping[str, Collection[str]]) -> dict[str, Record]:
    """Return the provenance of the fleets that are packed already or merged now."""
    return {
        fleet: record
        for kind, fleets in merged.items()
        for fleet, record in stored.records(kind).items()
        if fleet in fleets or fleet not in stored.sharded(kind)
    }


@contextmanager
def _locked(at: Path) -> Iterator[None]:
    """Hold the lock of a folder: of two that pack it, the second would undo the first's work."""
    handle = os.open(at, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ThreeRegimeError(f"another process is packing {at}: wait for it") from None
        yield
    finally:
        os.close(handle)
