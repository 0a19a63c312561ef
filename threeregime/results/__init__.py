"""Tables of results: written by sweeps, packed, read back, and listed with where they come from.

`load_results` reads the tables of an experiment, `shipped_tables` all that there are, and `pack`
merges what sweeps wrote into one file for each table.
"""

from threeregime.results.output_facts import OutputFacts, attach_facts, read_outputs
from threeregime.results.packing import pack
from threeregime.results.provenance import (
    NUMBERS,
    commit,
    duration,
    provenance_facts,
    provenance_lines,
)
from threeregime.results.shards import (
    KINDS,
    DamagedTable,
    read_shard,
    shard_path,
    tables_folder,
    write_shard,
)
from threeregime.results.shipped import ShippedTables, shipped_tables
from threeregime.results.status import experiment_list, status_table
from threeregime.results.stored import set_aside_damaged
from threeregime.results.tables import (
    DETERMINES,
    Results,
    TablesId,
    dense_row,
    finished_dense,
    finished_nets,
    load_results,
    reference,
)

__all__ = [
    "DETERMINES",
    "DamagedTable",
    "KINDS",
    "NUMBERS",
    "OutputFacts",
    "Results",
    "ShippedTables",
    "TablesId",
    "attach_facts",
    "commit",
    "dense_row",
    "duration",
    "experiment_list",
    "finished_dense",
    "finished_nets",
    "load_results",
    "pack",
    "provenance_facts",
    "provenance_lines",
    "read_outputs",
    "read_shard",
    "reference",
    "set_aside_damaged",
    "shard_path",
    "shipped_tables",
    "status_table",
    "tables_folder",
    "write_shard",
]
