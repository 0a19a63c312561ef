"""Write the shipped tables as files to download: CSV with checksums and provenance."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from threeregime.experiments import Experiment, Unit
from threeregime.results import (
    KINDS,
    Results,
    ShippedTables,
    TablesId,
    provenance_facts,
    shipped_tables,
)

SUMS = "SHA256SUMS"


@dataclass(frozen=True)
class File:
    """A table as a file.

    Attributes:
        name: name of the file.
        kind: kind of its rows, one of :data:`threeregime.results.KINDS`.
        rows: number of rows.
        size: size in bytes.
        sha256: checksum, 64 hexadecimal digits.
    """

    name: str
    kind: str
    rows: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Export:
    """The tables of one experiment and scale as files.

    Attributes:
        tables: identifies the tables.
        stem: first part of the names of the files.
        title: title of the experiment.
        files: one for each kind of rows.
        line: provenance of the numbers in one line.
        facts: provenance in full, by name.
    """

    tables: TablesId
    stem: str
    title: str
    files: tuple[File, ...]
    line: str
    facts: dict[str, str]


def write_tables(folder: Path, root: Path | None = None) -> list[Export]:
    """Write every shipped table as gzipped CSV, and a file for ``sha256sum --check``.

    Args:
        folder: folder of the files.
        root: folder of the tables; None for those that are shipped.

    Returns:
        What was written, one entry for each experiment and scale.
    """
    folder.mkdir(parents=True, exist_ok=True)
    exports = [_export(folder, shipped) for shipped in shipped_tables(root)]
    sums = [f"{file.sha256}  {file.name}\n" for export in exports for file in export.files]
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
    return exports


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: numbers to the last bit, lists (curves of LMC) as JSON."""
    lists = [str(c) for c in table if isinstance(table[c].iloc[0], (list, np.ndarray))]
    texts = {c: [json.dumps([float(x) for x in row]) for row in table[c]] for c in lists}
    return str(table.assign(**texts).to_csv(index=False, lineterminator="\n"))


def _export(folder: Path, shipped: ShippedTables) -> Export:
    experiment, tables = shipped.experiment, shipped.results
    assert tables.id is not None
    copy = [experiment.protocol.data.name] if shipped.is_copy else []
    stem = "-".join([experiment.name, experiment.scale, *copy])
    parts = {kind: part for kind in KINDS if len(part := getattr(tables, kind))}
    files = tuple(
        _file(folder, f"{stem}-{kind}.csv.gz", kind, part) for kind, part in parts.items()
    )
    facts = _facts(experiment, tables)
    return Export(tables.id, stem, experiment.title, files, _line(facts, tables), facts)


def _file(folder: Path, name: str, kind: str, table: pd.DataFrame) -> File:
    # Without the time of writing: equal tables are equal bytes.
    content = gzip.compress(to_csv(table).encode(), 9, mtime=0)
    (folder / name).write_bytes(content)
    return File(name, kind, len(table), len(content), hashlib.sha256(content).hexdigest())


def _facts(experiment: Experiment, tables: Results) -> dict[str, str]:
    """Return hashes of the experiment and its protocols, the seeds, and the fleets' provenance."""
    protocols = {
        v: experiment.base_hash(cell.protocol) for v, cell in _first_cells(experiment).items()
    }
    dense, retrain = (_span(tables.nets[c]) for c in ("dense_seed", "retrain_seed"))
    return {
        "experiment": _identity(experiment, protocols),
        "protocol": ", ".join(f"{v} {base}".strip() for v, base in protocols.items()),
        "data": experiment.protocol.data.name,
        "seeds": f"dense {dense}; retraining {retrain}",
        **provenance_facts(tables.origins),
    }


def _first_cells(experiment: Experiment) -> dict[str, Unit]:
    at = (experiment.temperatures[0], experiment.loads[0], experiment.dense_seeds[0])
    return {variant: experiment.unit(variant, *at) for variant in experiment.variants}


def _identity(experiment: Experiment, protocols: Mapping[str, str]) -> str:
    """Return the hash of protocols, grid and seeds: 12 hexadecimal digits."""
    content = {
        "protocols": dict(protocols),
        experiment.temperature: experiment.temperatures,
        experiment.load: experiment.loads,
        "seeds": [experiment.dense_seeds, experiment.retrain_seeds],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _span(seeds: pd.Series) -> str:
    low, high = seeds.min(), seeds.max()
    return f"{low} to {high}" if low < high else str(low)


def _line(facts: Mapping[str, str], tables: Results) -> str:
    dense, retrain = (tables.nets[c].nunique() for c in ("dense_seed", "retrain_seed"))
    torch = sorted({versions["torch"] for versions in tables.origins["versions"]})
    minutes = tables.origins["seconds"].sum() / 60
    return (
        f"experiment {facts['experiment']}, {dense} × {retrain} seeds, {facts['code']}, "
        f"{facts['device']}, torch {' and '.join(torch)}, {minutes:.0f} min"
    )
