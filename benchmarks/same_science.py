"""Whether engines give the same science: ``python -m benchmarks.same_science``.

The digits experiment at two densities, one on each side of the first transition, with 20 dense
seeds and two copies of each, is run by the plainest engine (plain layers in groups, float32,
nothing compiled) and by every other that is built for this device. They start from the same
weights and see the same batches; rounding alone makes them differ, and training magnifies it. For
test error, LMC and CKA the mean difference from the plainest is printed with its 95 % interval
over dense seeds (Student's t of the paired differences), beside the spread over seeds itself. One
interval in twenty leaves out zero by chance; the last line counts them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.processes import record
from threeregime.analysis.intervals import t_half_width
from threeregime.data.registry import DATA_DIR
from threeregime.experiments import catalogue
from threeregime.experiments.experiment import Experiment
from threeregime.fleet.device import device_name
from threeregime.fleet.engine import Engine, candidate_engines
from threeregime.results import commit, load_results
from threeregime.sweep.jobs import run_job
from threeregime.sweep.plan import MEMBERS, JobContext, make_plan

PLAINEST = Engine().name
METRICS = {"test_error": "test error", "lmc": "LMC", "cka_softmax": "CKA"}


def experiment(seeds: int) -> Experiment:
    """One temperature and two densities of Figure 2 on the digits."""
    whole = catalogue.load_experiment("figure_02", "digits")
    return whole.with_values(epochs=[32], density=[0.06, 0.2]).with_seeds(seeds, 2)


def others(device: str) -> list[str]:
    """Names of the engines to be compared with the plainest."""
    built = [
        engine for engine in candidate_engines(device, MEMBERS) if engine.backend != "separate"
    ]
    if device == "cpu":
        built.append(Engine(compiled=True))
    else:
        built += [Engine(graphed=True), Engine("separate", "bfloat16", graphed=True)]
    return [engine.name for engine in dict.fromkeys(built) if engine != Engine()]


def compute(engine: str, seeds: int, device: str, root: Path) -> str:
    """Run the experiment by one engine, with its tables below ``root``."""
    wanted = experiment(seeds)
    todo = make_plan(wanted, root / engine)
    place = JobContext(wanted, todo.at, DATA_DIR, device=device, engine=engine)
    for job in todo.jobs:
        run_job(job, place)
    return engine


def by_seed(engine: str, seeds: int, root: Path) -> pd.DataFrame:
    """Metrics of one engine, a row for each density and dense seed."""
    tables = load_results(experiment(seeds), root / engine)
    keys = ["density", "dense_seed"]
    nets = tables.nets.groupby(keys)["test_error"].mean()
    return tables.pairs.groupby(keys)[["lmc", "cka_softmax"]].mean().join(nets)


def compare(engine: str, plainest: pd.DataFrame, seeds: int, root: Path) -> list[dict[str, Any]]:
    """One engine's mean differences with their intervals, in points: a row a metric and density."""
    own = by_seed(engine, seeds, root)
    rows = []
    for metric, words in METRICS.items():
        for density, pair in (100 * (own[metric] - plainest[metric])).groupby("density"):
            half = t_half_width(float(pair.std()) / len(pair) ** 0.5, len(pair))
            rows.append(
                {
                    "engine": engine,
                    "density": density,
                    "metric": words,
                    "difference": pair.mean(),
                    "low": pair.mean() - half,
                    "high": pair.mean() + half,
                    "spread over seeds": 100 * plainest[metric].xs(density).std(),
                }
            )
    return rows


def main() -> None:
    """Run every engine, a process each, as many at once as there are cores; print differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="*", help="by name; all that are built if left out")
    parser.add_argument("--keep", type=Path, help="folder for the tables; thrown away if left out")
    parser.add_argument("--json", type=Path, help="write the table there too")
    chosen = parser.parse_args()
    compared = chosen.engines or others(chosen.device)
    # The commit is that of the code now, whatever happens to the files meanwhile.
    where = f"{device_name(chosen.device)}, commit {commit()}"
    print(f"{where}, {chosen.seeds} dense seeds x 2 copies, minus {PLAINEST}")
    with tempfile.TemporaryDirectory() as thrown_away:
        root = chosen.keep or Path(thrown_away)
        work = partial(compute, seeds=chosen.seeds, device=chosen.device, root=root)
        at_once = (os.cpu_count() or 1) if chosen.device == "cpu" else 1
        with multiprocessing.get_context("spawn").Pool(at_once) as pool:
            for engine in pool.imap_unordered(work, [PLAINEST, *compared]):
                print(f"computed by {engine}", flush=True)
        plainest = by_seed(PLAINEST, chosen.seeds, root)
        rows = [row for e in compared for row in compare(e, plainest, chosen.seeds, root)]
    for row in rows:
        print(
            f"{row['engine']:32} density {row['density']:4.0%}  {row['metric']:10}  "
            f"{row['difference']:+6.2f} [{row['low']:+6.2f}, {row['high']:+6.2f}] points, "
            f"spread over seeds {row['spread over seeds']:.2f}"
        )
    if chosen.json:
        record(chosen.json, chosen.device, seeds=chosen.seeds, plainest=PLAINEST, rows=rows)
    outside = sum(row["low"] > 0 or row["high"] < 0 for row in rows)
    print(f"{outside} of {len(rows)} intervals leave out zero")


if __name__ == "__main__":
    main()
