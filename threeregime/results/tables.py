"""Tables of results: the finished rows of an experiment, read from packed tables and shards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from threeregime._paths import REFERENCE, RESULTS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment, Unit
from threeregime.results.provenance import Record
from threeregime.results.shards import KINDS, tables_folder
from threeregime.results.stored import StoredTables

ROOT = RESULTS
DETERMINES: dict[str, tuple[str, ...]] = {
    "dense": ("data", "net", "dense"),
    "nets": (),
    "pairs": (),
    "early": (),
}
"""The sections of the protocol that the rows of a kind depend on; none named: all."""


@dataclass(frozen=True)
class TablesId:
    """Identity of some tables; it is the same as long as the same fleets are in them.

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
    """The tables of one experiment at one scale.

    Attributes:
        experiment: its name.
        scale: its scale.
        temperature: the axis that is the temperature.
        load: the axis that is the load.
        dense: a row per checkpoint of a dense run.
        nets: a row per retrained net.
        pairs: a row per pair of copies.
        provenance: a row per fleet, of all protocols that lie in the same folder.
        error: what 100 times the test error is.
        early: a row per pair and early epoch of retraining; often empty.
        id: identity of the whole tables, also where this is a part; None: made by hand.
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
    id: TablesId | None = None

    @property
    def origins(self) -> pd.DataFrame:
        """Provenance of the fleets of the nets and of their dense checkpoints, a row per fleet."""
        fleets = pd.concat([part["fleet"] for part in (self.dense, self.nets) if len(part)])
        used = self.provenance["fleet"].isin(fleets)
        return self.provenance[used].reset_index(drop=True)

    def variant(self, name: str) -> Results:
        """Return the rows of one variant alone."""
        return self._only("variant", [name])

    def with_dense_seeds(self, seeds: Sequence[int]) -> Results:
        """Return the rows of some dense seeds alone."""
        return self._only("dense_seed", seeds)

    def with_loads(self, loads: Sequence[float]) -> Results:
        """Return the rows of some loads alone, and of dense nets that are of all loads."""
        return self._only(self.load, loads)

    def _only(self, column: str, values: Sequence[Any]) -> Results:
        parts = {kind: getattr(self, kind) for kind in KINDS}
        selected = {
            kind: table[table[column].isin(values)].reset_index(drop=True)
            for kind, table in parts.items()
            if column in table
        }
        return replace(self, **selected)


def stored_tables(experiment: Experiment, *roots: Path) -> list[StoredTables]:
    """Return what folders hold of an experiment at its scale, of whatever protocol.

    Args:
        experiment: its name and scale say where to look.
        roots: folders of tables; none: the shipped :data:`ROOT`.
    """
    return [StoredTables(tables_folder(root, experiment.name, experiment.scale)) for root in roots or (ROOT,)]


def load_results(experiment: Experiment, *roots: Path) -> Results:
    """Load the finished rows of an experiment: those of its protocol, on its grid and seeds.

    Args:
        experiment: what is wanted.
        roots: folders to look in, the shipped :data:`ROOT` if none is named.

    Rows of fleets that are not complete, and of damaged files, are left out. Where two fleets have
    the same row, that of the first folder counts, and in one folder that of the fleet whose name
    comes first; this holds for all tables alike, so that the pairs are of the same nets.

    Raises:
        ThreeRegimeError: nothing has been computed; says the command that does.
        DamagedTable: all that was computed is in damaged files.
    """
    stored = stored_tables(experiment, *roots)
    results = select_results(experiment, stored)
    if results is None:
        for error in (error for one in stored for error in one.damaged()):
            raise error
        raise ThreeRegimeError(
            f"no results of {experiment.name} at scale {experiment.scale} in "
            f"{' or '.join(map(str, roots or (ROOT,)))}: run "
            f"`threeregime sweep {experiment.name} --scale {experiment.scale}`"
        )
    return results


def select_results(experiment: Experiment, stored: Sequence[StoredTables]) -> Results | None:
    """Return the finished rows of an experiment among stored ones; None where it has no nets."""
    tables = {kind: _select(experiment, kind, _all_rows(kind, stored)) for kind in KINDS}
    if not len(tables["nets"]):
        return None
    return Results(
        experiment.name,
        experiment.scale,
        experiment.temperature,
        experiment.load,
        provenance=_provenance(stored),
        error=experiment.error,
        id=_identify(experiment, tables["nets"]),
        **tables,
    )


def _all_rows(kind: str, stored: Sequence[StoredTables]) -> pd.DataFrame:
    """Return the rows of one kind in several folders, each fleet from the first that has it.

    Column ``folder`` counts the folders.
    """
    seen: set[str] = set()
    parts = []
    for number, one in enumerate(stored):
        rows = one.rows(kind)
        if len(rows):
            parts.append(rows[~rows["fleet"].isin(seen)].assign(folder=number))
            seen |= set(rows["fleet"])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _select(experiment: Experiment, kind: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of an experiment's protocol, grid and seeds, each once, in order."""
    if not len(rows):
        return rows
    bases = _bases(experiment, *DETERMINES[kind])
    keep = rows["base"] == rows["variant"].map(bases)
    keep &= rows["dense_seed"].isin(experiment.dense_seeds)
    axes = {experiment.temperature: experiment.temperatures, experiment.load: experiment.loads}
    for axis, values in axes.items():
        if axis in rows:
            keep &= rows[axis].isin(values)
    for seed in {"retrain_seed", "seed_a", "seed_b"} & set(rows.columns):
        keep &= rows[seed].isin(experiment.retrain_seeds)
    order = [c for c in _sort_order(experiment) if c in rows]
    # Where two fleets hold the same row, neither packing nor the order of reading decides.
    rows = rows[keep].sort_values([*order, "folder", "fleet"], ignore_index=True)
    return rows.drop_duplicates(order, ignore_index=True).drop(columns=["base", "folder"])


def _bases(experiment: Experiment, *sections: str) -> Mapping[str, str]:
    """Return the base hash of each variant, as the column ``base`` has it."""
    first = (experiment.temperatures[0], experiment.loads[0], 0)
    protocols = {v: experiment.unit(v, *first).protocol for v in experiment.variants}
    return {v: experiment.base_hash(p, *sections) for v, p in protocols.items()}


def _sort_order(experiment: Experiment) -> list[str]:
    seeds = ["dense_seed", "retrain_seed", "seed_a", "seed_b"]
    return ["variant", experiment.temperature, experiment.load, *seeds, "epoch"]


def _identify(experiment: Experiment, nets: pd.DataFrame) -> TablesId:
    content = "\n".join([*sorted(nets["fleet"].unique()), str(len(nets))])
    mark = hashlib.sha256(content.encode()).hexdigest()[:12]
    return TablesId(experiment.name, experiment.scale, experiment.protocol.data.name, mark)


def _provenance(stored: Sequence[StoredTables]) -> pd.DataFrame:
    """Return a row per fleet: those with dense rows first, each from the first folder with it."""
    records: dict[str, Record] = {}
    for kind in KINDS:
        for one in stored:
            records = {**records, **one.records(kind), **records}
    numbers = pd.array([record.get("numbers") for record in records.values()], dtype="Int64")
    return pd.DataFrame(list(records.values())).assign(numbers=numbers)


def finished_nets(experiment: Experiment, *roots: Path) -> set[tuple[str, int, int]]:
    """Return (cell hash, dense seed, retraining seed) of every net with all its measurements.

    Args:
        experiment: its name and scale say where to look; nets of other protocols are there too.
        roots: as in :func:`load_results`.
    """
    return nets_of_complete_fleets(stored_tables(experiment, *roots))


def nets_of_complete_fleets(stored: Sequence[StoredTables]) -> set[tuple[str, int, int]]:
    """Return the nets of :func:`finished_nets` in what folders hold."""
    nets: set[tuple[str, int, int]] = set()
    for one in stored:
        rows = one.rows("nets")
        if len(rows):
            rows = rows[rows["fleet"].isin(one.complete())]
            nets |= set(zip(rows["cell"], rows["dense_seed"], rows["retrain_seed"], strict=True))
    return nets


def dense_row(experiment: Experiment, unit: Unit) -> tuple[object, ...]:
    """Return what identifies the dense row of a unit: base hash, seed, place on the axes."""
    sections = DETERMINES["dense"]
    place = experiment.coordinates(unit.protocol, *sections).values()
    return (experiment.base_hash(unit.protocol, *sections), unit.dense_seed, *place)


def finished_dense(experiment: Experiment, *roots: Path) -> set[tuple[object, ...]]:
    """Return the dense rows that are there, as :func:`dense_row` identifies them.

    Args:
        experiment: its name and scale say where to look; rows of other protocols are there too.
        roots: as in :func:`load_results`.
    """
    found: set[tuple[object, ...]] = set()
    for one in stored_tables(experiment, *roots):
        rows = one.rows("dense")
        if len(rows):
            axes = [a for a in (experiment.temperature, experiment.load) if a in rows]
            columns = ["base", "dense_seed", *axes]
            found |= set(rows[columns].itertuples(index=False, name=None))
    return found


def reference() -> pd.DataFrame:
    """Return the paper's Figure 2 as numbers (see ``reference/README.md``).

    Columns epochs, density, test_error, normalized_test_error, lmc, cka; fractions.
    """
    return pd.read_csv(REFERENCE / "figure_02.csv")
