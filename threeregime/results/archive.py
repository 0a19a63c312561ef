"""The packed tables as one archive with a manifest, to attach to a release."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from threeregime._files import atomic_write
from threeregime.errors import ThreeRegimeError
from threeregime.results.packed import packed_path, provenance_path, read_packed, read_provenance
from threeregime.results.provenance import commit
from threeregime.results.shards import KINDS
from threeregime.results.stored import StoredTables

MANIFEST = "manifest.json"
FOLDER = "results"


def write_archive(root: Path, out: Path) -> tuple[Path, Path]:
    """Write the packed tables and their provenance as a ``.tar.gz``, and its manifest beside it.

    Equal tables of one commit are equal bytes. The manifest, which is in the archive too, names
    version, commit, and path, SHA-256, size and number of rows (of provenance: fleets) of each file.

    Args:
        root: folder of the tables.
        out: folder of the archive.

    Returns:
        Paths of the archive and of the manifest.

    Raises:
        ThreeRegimeError: there are no tables, some are not packed, or a file is damaged.
    """
    files = list(_files(root))
    if not files:
        raise ThreeRegimeError(f"{root} has no packed tables: run a sweep, then pack its results")
    contents = {f"{FOLDER}/{path.relative_to(root).as_posix()}": (path, n) for path, n in files}
    manifest: dict[str, Any] = {
        "version": version("threeregime"),
        "commit": commit(),
        "files": [_entry(name, path, rows) for name, (path, rows) in contents.items()],
    }
    text = f"{json.dumps(manifest, indent=1)}\n".encode()
    stem = f"threeregime-results-{manifest['version']}"
    packed = {MANIFEST: text, **{name: path.read_bytes() for name, (path, _) in contents.items()}}
    archive, beside = out / f"{stem}.tar.gz", out / f"{stem}.json"
    out.mkdir(parents=True, exist_ok=True)
    content = gzip.compress(_tar(packed), 9, mtime=0)
    atomic_write(archive, lambda path: path.write_bytes(content))
    atomic_write(beside, lambda path: path.write_bytes(text))
    return archive, beside


def _files(root: Path) -> Iterator[tuple[Path, int]]:
    """Yield the packed files of all folders in order, and their number of rows or fleets."""
    for at in sorted(path for path in root.glob("*/*") if path.is_dir()):
        if any(StoredTables(at).shards.values()):
            name = f"{at.parent.name}, {at.name}"
            raise ThreeRegimeError(f"{name} is not packed: run `threeregime results pack` first")
        for kind in KINDS:
            if (table := read_packed(at, kind)) is not None:
                yield packed_path(at, kind), table.num_rows
        if fleets := read_provenance(at):
            yield provenance_path(at), len(fleets)


def _entry(name: str, path: Path, rows: int) -> dict[str, Any]:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return {"path": name, "sha256": digest, "bytes": len(content), "rows": rows}


def _tar(contents: dict[str, bytes]) -> bytes:
    """Return files as a tar without times, owners and rights, so that equal files are equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()
