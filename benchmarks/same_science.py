"""Agreement of results between engines: ``python -m benchmarks.same_science``.

The digits experiment at two densities, one on each side of the first transition, with 24 dense
seeds and two copies of each, runs on the plainest engine (plain layers in groups, float32, nothing
compiled) and on every other engine for this device. All start from the same weights and see the
same batches; only rounding differs, which training amplifies. For test error, LMC and CKA the mean
difference from the plainest engine is printed with its 95 % interval over dense seeds (Student's t
of the paired differences), beside the standard deviation over seeds. One interval in twenty
excludes zero by chance; the last line counts them.
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

from benchmarks import small_nets
from benchmarks.processes import record
from threeregime.analysis import t_half_width
from threeregime.data import DATA_DIR
from threeregime.experiments import Experiment
from threeregime.fleet import GPU_ENGINES, Engine, device_name
from threeregime.results import load_results
from threeregime.results.provenance import commit
from threeregime.sweep import JobContext, make_plan, run_job

PLAINEST = Engine().name
METRICS = {"test_error": "test error", "lmc": "LMC", "cka_softmax": "CKA"}


def experiment(seeds: int) -> Experiment:
    """Return one temperature and two densities of Figure 2 on the digits."""
    return small_nets.figure_02().with_values(epochs=[32], density=[0.06, 0.2]).with_seeds(seeds, 2)


def other_engines(device: str) -> list[str]:
    """Return the names of the engines to compare with the plainest."""
    if device == "cpu":
        return [Engine("planned").name]
    engines = [Engine(graphed=True), Engine("separate", "bfloat16", graphed=True), *GPU_ENGINES]
    return [engine.name for engine in dict.fromkeys(engines) if engine.backend != "vmapped"]


def compute(engine: str, seeds: int, device: str, root: Path) -> str:
    """Run the experiment on one engine, with its tables below ``root``."""
    plan = make_plan(experiment(seeds), root / engine)
    context = JobContext(plan.experiment, plan.folder, DATA_DIR, device=device, engine=engine)
    for job in plan.jobs:
        run_job(job, context)
    return engine


def by_seed(engine: str, seeds: int, root: Path) -> pd.DataFrame:
    """Return the metrics of one engine, one row per density and dense seed."""
    tables = load_results(experiment(seeds), root / engine)
    keys = ["density", "dense_seed"]
    nets = tables.nets.groupby(keys)["test_error"].mean()
    return tables.pairs.groupby(keys)[["lmc", "cka_softmax"]].mean().join(nets)


def compare(engine: str, plainest: pd.DataFrame, seeds: int, root: Path) -> list[dict[str, Any]]:
    """Return one engine's mean differences with intervals, in points, by metric and density."""
    metrics = by_seed(engine, seeds, root)
    rows = []
    for metric, words in METRICS.items():
        differences = 100 * (metrics[metric] - plainest[metric])
        for density, values in differences.groupby("density"):
            half_width = t_half_width(float(values.std()) / len(values) ** 0.5, len(values))
            rows.append(
                {
                    "engine": engine,
                    "density": density,
                    "metric": words,
                    "difference": values.mean(),
                    "low": values.mean() - half_width,
                    "high": values.mean() + half_width,
                    "spread over seeds": 100 * plainest[metric].xs(density).std(),
                }
            )
    return rows


def main() -> None:
    """Run every engine in a process of its own, one per core at a time; print differences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="*", help="names; default: all engines for the device")
    parser.add_argument("--keep", type=Path, help="folder for the tables; default: a temporary one")
    parser.add_argument("--json", type=Path, help="path to write the table to")
    arguments = parser.parse_args()
    compared = arguments.engines or other_engines(arguments.device)
    # Read before the runs, during which files may change.
    where = f"{device_name(arguments.device)}, commit {commit()}"
    print(f"{where}, {arguments.seeds} dense seeds x 2 copies, minus {PLAINEST}")
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.keep or Path(temporary)
        work = partial(compute, seeds=arguments.seeds, device=arguments.device, root=root)
        processes = (os.cpu_count() or 1) if arguments.device == "cpu" else 1
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for engine in pool.imap_unordered(work, [PLAINEST, *compared]):
                print(f"computed by {engine}", flush=True)
        plainest = by_seed(PLAINEST, arguments.seeds, root)
        rows = [row for e in compared for row in compare(e, plainest, arguments.seeds, root)]
    for row in rows:
        print(
            f"{row['engine']:32} density {row['density']:4.0%}  {row['metric']:10}  "
            f"{row['difference']:+6.2f} [{row['low']:+6.2f}, {row['high']:+6.2f}] points, "
            f"spread over seeds {row['spread over seeds']:.2f}"
        )
    if arguments.json:
        record(
            arguments.json, arguments.device, seeds=arguments.seeds, plainest=PLAINEST, rows=rows
        )
    outside = sum(row["low"] > 0 or row["high"] < 0 for row in rows)
    print(f"{outside} of {len(rows)} intervals leave out zero")


if __name__ == "__main__":
    main()
