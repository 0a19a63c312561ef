"""Result tables: immutable Parquet shards, one set a fleet, each with its provenance inside.

``ROOT/EXPERIMENT/SCALE/KIND-FLEET.parquet``, where KIND is ``dense`` (a row per checkpoint of a
dense run), ``nets`` (a row per retrained net), ``pairs`` (a row per pair of copies) or, where the
protocol asks for it, ``early`` (a row per pair and early epoch of retraining).
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from threeregime._paths import REFERENCE, RESULTS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment, Unit

ROOT = RESULTS
KINDS = ("dense", "nets", "pairs", "early")
# The sections of the protocol that a kind's rows depend on; none named: all.
DETERMINES: dict[str, tuple[str, ...]] = {
    "dense": ("data", "net", "dense"),
    "nets": (),
    "pairs": (),
    "early": (),
}
_KEY = b"threeregime"


def folder(root: Path, experiment: str, scale: str) -> Path:
    """Folder of an experiment's shards; one given by its file is called after it."""
    return root / Path(experiment).stem / scale


def atomic_write(path: Path, write: Any) -> None:
    """Call ``write(temporary path)`` and rename: readers see the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_shard(path: Path, rows: pd.DataFrame, provenance: Mapping[str, Any]) -> None:
    """Write a table with its provenance, by atomic rename."""
    table = pa.Table.from_pandas(rows, preserve_index=False)
    metadata = {**(table.schema.metadata or {}), _KEY: json.dumps(provenance).encode()}
    atomic_write(path, lambda p: pq.write_table(table.replace_schema_metadata(metadata), p))


def read_shard(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a shard: its rows and its provenance."""
    try:
        table = pq.read_table(path)
        return table.to_pandas(), json.loads(table.schema.metadata[_KEY])
    except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
        raise ThreeRegimeError(
            f"{path} is not a results table ({error}); delete it and run the sweep again"
        ) from error


@dataclass(frozen=True)
class Name:
    """Which tables: of what, and a mark that is the same as long as the same fleets are in them.

    Attributes:
        experiment: its name.
        scale: its scale.
        data: the data set.
        mark: 12 hexadecimal digits of the SHA-256 of the names of their fleets and their nets.
    """

    experiment: str
    scale: str
    data: str
    mark: str


@dataclass(frozen=True)
class Results:
    """The tables of one experiment at one scale, and one row of provenance a shard.

    ``name`` stays that of the whole where a part is taken; None: made by hand.
    """

    experiment: str
    scale: str
    temperature: str
    load: str
    dense: pd.DataFrame
    nets: pd.DataFrame
    pairs: pd.DataFrame
    provenance: pd.DataFrame
    error: str = "%"
    early: pd.DataFrame = field(default_factory=pd.DataFrame)
    name: Name | None = None

    @property
    def origins(self) -> pd.DataFrame:
        """Provenance of the fleets that the nets and their dense checkpoints came from, a row each.

        ``provenance`` has a row a shard, and those of other protocols too.
        """
        fleets = pd.concat([part["fleet"] for part in (self.dense, self.nets) if len(part)])
        used = self.provenance["fleet"].isin(fleets)
        return self.provenance[used].drop_duplicates("fleet", ignore_index=True)

    def variant(self, name: str) -> Results:
        """One variant's rows alone."""
        return self._only("variant", [name])

    def with_dense_seeds(self, seeds: Sequence[int]) -> Results:
        """The rows of some dense seeds alone."""
        return self._only("dense_seed", seeds)

    def _only(self, column: str, values: Sequence[Any]) -> Results:
        parts = {kind: getattr(self, kind) for kind in KINDS}
        kept = {
            kind: table[table[column].isin(values)].reset_index(drop=True)
            for kind, table in parts.items()
            if len(table)
        }
        return replace(self, **kept)


def load(experiment: Experiment, *roots: Path) -> Results:
    """Load the finished rows of an experiment: those of its protocol, on its grid and seeds.

    Args:
        experiment: what is wanted.
        roots: folders to look in, the shipped :data:`ROOT` if none is named; where two hold the
            same row, the first one's counts.

    Raises:
        ThreeRegimeError: nothing has been computed; says the command that does.
    """
    roots = roots or (ROOT,)
    found = _read_all(experiment, roots)
    axes = {experiment.temperature: experiment.temperatures, experiment.load: experiment.loads}
    first = (experiment.temperatures[0], experiment.loads[0], 0)
    protocols = {v: experiment.unit(v, *first).protocol for v in experiment.variants}
    tables = {}
    for kind in KINDS:
        rows = found[kind]
        if len(rows):
            bases = {v: experiment.base_hash(p, *DETERMINES[kind]) for v, p in protocols.items()}
            keep = rows["base"] == rows["variant"].map(bases)
            keep &= rows["dense_seed"].isin(experiment.dense_seeds)
            for axis, values in axes.items():
                if axis in rows:
                    keep &= rows[axis].isin(values)
            for seed in {"retrain_seed", "seed_a", "seed_b"} & set(rows.columns):
                keep &= rows[seed].isin(experiment.retrain_seeds)
            order = [c for c in _sort_order(experiment) if c in rows]
            rows = rows[keep].drop(columns="base").sort_values(order, ignore_index=True)
            rows = rows.drop_duplicates(order, ignore_index=True)
        tables[kind] = rows
    if not len(tables["nets"]):
        raise ThreeRegimeError(
            f"no results of {experiment.name} at scale {experiment.scale} in "
            f"{' or '.join(map(str, roots))}: run "
            f"`threeregime sweep {experiment.name} --scale {experiment.scale}`"
        )
    return Results(
        experiment.name,
        experiment.scale,
        experiment.temperature,
        experiment.load,
        provenance=found["provenance"],
        error=experiment.error,
        name=_name(experiment, tables["nets"]),
        **tables,
    )


def _name(experiment: Experiment, nets: pd.DataFrame) -> Name:
    content = "\n".join([*sorted(nets["fleet"].unique()), str(len(nets))])
    mark = hashlib.sha256(content.encode()).hexdigest()[:12]
    return Name(experiment.name, experiment.scale, experiment.protocol.data.name, mark)


def _sort_order(experiment: Experiment) -> list[str]:
    seeds = ["dense_seed", "retrain_seed", "seed_a", "seed_b"]
    return ["variant", experiment.temperature, experiment.load, *seeds, "epoch"]


def _shards(experiment: Experiment, roots: Sequence[Path], kind: str) -> list[Path]:
    """Files of one kind, folder by folder; no other file in them matters."""
    folders = [folder(root, experiment.name, experiment.scale) for root in roots or (ROOT,)]
    found = [path for at in folders for path in sorted(at.glob(f"{kind}-*.parquet"))]
    # The same fleet in two folders is read once, from the first.
    return list({path.name: path for path in reversed(found)}.values())[::-1]


def _read_all(experiment: Experiment, roots: Sequence[Path]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {kind: [] for kind in KINDS}
    provenance = []
    for kind in KINDS:
        for path in _shards(experiment, roots, kind):
            rows, origin = read_shard(path)
            parts[kind].append(rows)
            provenance.append({"shard": path.name, **origin})
    tables = {k: pd.concat(p, ignore_index=True) if p else pd.DataFrame() for k, p in parts.items()}
    return {**tables, "provenance": pd.DataFrame(provenance)}


def done(experiment: Experiment, *roots: Path) -> set[tuple[str, int, int]]:
    """What is finished: (cell hash, dense seed, retraining seed) of every net with its pairs."""
    finished = set()
    for path in _shards(experiment, roots, "pairs"):
        nets, early = (
            path.with_name(path.name.replace("pairs-", kind)) for kind in ("nets-", "early-")
        )
        if not nets.exists():
            continue
        rows, origin = read_shard(nets)
        # All members of a fleet share their metrics.
        asked = any("early" in p.get("metrics", {}) for p in origin.get("protocols", {}).values())
        if early.exists() or not asked:
            finished |= set(
                zip(rows["cell"], rows["dense_seed"], rows["retrain_seed"], strict=True)
            )
    return finished


def dense_row(experiment: Experiment, unit: Unit) -> tuple[object, ...]:
    """What identifies the dense row of a unit: base hash, seed, place on the axes."""
    sections = DETERMINES["dense"]
    place = experiment.coordinates(unit.protocol, *sections).values()
    return (experiment.base_hash(unit.protocol, *sections), unit.dense_seed, *place)


def done_dense(experiment: Experiment, *roots: Path) -> set[tuple[object, ...]]:
    """Which dense rows there are, as :func:`dense_row` names them."""
    found: set[tuple[object, ...]] = set()
    for path in _shards(experiment, roots, "dense"):
        rows, _ = read_shard(path)
        axes = [a for a in (experiment.temperature, experiment.load) if a in rows]
        columns = ["base", "dense_seed", *axes]
        found |= set(rows[columns].itertuples(index=False, name=None))
    return found


def reference() -> pd.DataFrame:
    """The paper's Figure 2 as numbers (see ``reference/README.md``).

    Columns epochs, density, test_error, normalized_test_error, lmc, cka; fractions.
    """
    return pd.read_csv(REFERENCE / "figure_02.csv")
