"""Golden numbers: all metrics of a few cells of four experiments, which code must not change.

``python -m tests.helpers.golden`` writes the numbers of this code and processor to ``golden.json``.
"""

from __future__ import annotations

import json
import math
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from threeregime.experiments import catalogue
from threeregime.results import KINDS, NUMBERS, load_results
from threeregime.sweep import compute as sweep

TABLE = Path(__file__).with_name("golden.json")
Rows = dict[str, list[dict[str, Any]]]

CHANGED = (
    "numbers changed: if that is meant, raise NUMBERS in threeregime/results/provenance.py and run "
    "`python -m tests.helpers.golden`"
)
OUTDATED = "NUMBERS and the golden table differ: run `python -m tests.helpers.golden`"


@dataclass(frozen=True)
class Case:
    """Some cells of an experiment at scale smoke, on one engine.

    With few training images there are few steps, over which differences of rounding between
    processors stay small.
    """

    experiment: str
    engine: str
    only: dict[str, list[float]]
    images: int = 80

    def __str__(self) -> str:
        return f"{self.experiment}, {self.engine}"


CASES = (
    Case("figure_02", "grouped", {"epochs": [2, 4], "density": [0.1, 0.4]}),
    Case("figure_02", "planned", {"epochs": [2, 4], "density": [0.1, 0.4]}),
    Case("diagnostics", "grouped", {"epochs": [2], "density": [0.2]}),
    Case("figure_05", "grouped", {"epochs": [2], "density": [0.2]}),
    Case("figure_14", "vmapped", {"epochs": [2], "density": [0.2]}, images=320),
)


def processor() -> str:
    """Return vendor, family and vector instructions, which determine how sums are rounded."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    facts = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    vendor, family = facts.get("vendor_id", platform.machine()), facts.get("cpu family", "?")
    return f"{vendor} family {family}, {torch.backends.cpu.get_cpu_capability()}"


def compute(case: Case) -> Rows:
    """Return all numbers of a case's tables: a list of rows by kind of table."""
    experiment = catalogue.load_experiment(case.experiment, "smoke").with_values(**case.only)
    experiment = experiment.with_seeds(1, 2).with_fields({"data.images": case.images})
    with tempfile.TemporaryDirectory() as root:
        sweep.run_sweep(experiment, Path(root), device="cpu", workers=1, engine=case.engine)
        tables = load_results(experiment, Path(root))
    return {
        kind: json.loads(json.dumps(getattr(tables, kind).to_dict("records"), default=_plain))
        for kind in KINDS
    }


def _plain(value: Any) -> Any:
    return value.tolist()


def differences(one: Rows, other: Rows, tolerance: float = 0.0) -> list[str]:
    """Return where two tables differ by more than the tolerance."""
    lines = []
    for kind in {**one, **other}:
        rows, others = one.get(kind, []), other.get(kind, [])
        if len(rows) != len(others):
            lines.append(f"{kind}: {len(rows)} rows, not {len(others)}")
        for number, (row, theirs) in enumerate(zip(rows, others, strict=False)):
            for name in {**row, **theirs}:
                a, b = row.get(name), theirs.get(name)
                if distance(a, b) > tolerance:
                    lines.append(f"{kind}[{number}].{name}: {a} is not {b}")
    return lines


def distance(one: Any, other: Any) -> float:
    """Return the distance of two values of a table: 0 only if they are equal."""
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return max(map(distance, one, other), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return 0.0 if math.isnan(one) and math.isnan(other) else math.inf
        return abs(one - other)
    return 0.0 if one == other else math.inf


@dataclass(frozen=True)
class Golden:
    """The stored tables.

    Attributes:
        numbers: the version of the numbers that they were made with.
        processors: tables by processor, then by case.
    """

    numbers: int
    processors: dict[str, dict[str, Rows]]


def read() -> Golden:
    """Return what is stored."""
    return Golden(**json.loads(TABLE.read_text()))


def write() -> None:
    """Store what this processor computes; tables of others stay if they have the same numbers."""
    stored = read()
    others = stored.processors if stored.numbers == NUMBERS else {}
    made = {str(case): compute(case) for case in CASES}
    golden = Golden(NUMBERS, {**others, processor(): made})
    TABLE.write_text(json.dumps(vars(golden), indent=1) + "\n")


if __name__ == "__main__":
    write()
    print(f"{TABLE}: {processor()}, numbers {NUMBERS}")
