"""Kill sweeps at random moments, run pairs of them in one folder, and count what goes wrong.

``python -m tests.helpers.kills --kills 100 --pairs 20`` prints the counts as JSON, and those so far
after each folder. Every sweep runs in a process of its own, with fleets of a drawn size, and a
checkpoint after every epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tqdm import tqdm

from tests.helpers.comparing import tables
from threeregime import _files
from threeregime.experiments import Experiment, load_experiment
from threeregime.results import KINDS, read_shard, tables_folder
from threeregime.sweep import compute, jobs, resumable, run_sweep

FLEETS = (1, 2, 3, 4, 6, 12)
"""Largest numbers of nets in a fleet to draw from."""
LARGEST_SHARE = 0.6
"""Largest moment of a kill, as a share of an undisturbed sweep's processor time."""


def small_experiment(dense_seeds: int = 2, retraining_epochs: int = 3) -> Experiment:
    """Return an experiment of six cells on few images, with two copies of each dense run."""
    fields: dict[str, Any] = {
        "data.images": 160,
        "dense.epochs": 3,
        "dense.milestones": [2],
        "retraining.epochs": retraining_epochs,
        "retraining.milestones": [retraining_epochs - 1],
        "metrics.points": 3,
    }
    experiment = load_experiment("figure_02", "smoke").with_fields(fields)
    return experiment.with_values(epochs=[1, 2, 3], density=[0.2, 0.6]).with_seeds(dense_seeds, 2)


def count(kills: int, pairs: int, seed: int, root: Path) -> dict[str, int]:
    """Count kills and pairs, and what they did to the tables.

    Args:
        kills: number of processes to kill.
        pairs: number of pairs of sweeps in one folder.
        seed: of moments and sizes.
        root: an empty folder.

    Returns:
        ``kills``, ``pairs`` and ``folders`` (all that were computed); ``failures``, sweeps that
        ended with an error; ``rows_lost``, ``rows_twice`` and ``tables_different``, compared with
        an undisturbed sweep; ``orphans``, files that the next sweep left which it does not need.
    """
    draws, counts = random.Random(seed), Counter(kills=0, pairs=0, folders=0, failures=0)
    counts.update(rows_lost=0, rows_twice=0, tables_different=0, orphans=0)
    experiment = small_experiment()
    whole = root / "whole"
    start = time.process_time()
    _sweep(experiment, whole, 4)  # here, so that the processes need not import and load all anew
    work = time.process_time() - start
    while counts["kills"] < kills:
        folder = root / f"killed-{counts['folders']}"
        while True:
            left = counts["kills"] < kills
            after = draws.uniform(0.0, LARGEST_SHARE * work) if left else 0.0
            (status,) = _wait(_fork(experiment, folder, draws.choice(FLEETS), after))
            if not os.WIFSIGNALED(status):
                break
            counts["kills"] += 1
        counts["failures"] += status != 0
        _judge(experiment, folder, whole, counts)
    while counts["pairs"] < pairs:
        folder = root / f"pair-{counts['pairs']}"
        sizes = draws.sample(FLEETS, 2)
        statuses = _wait(*(_fork(experiment, folder, size, 0.0) for size in sizes))
        counts["pairs"] += 1
        counts["failures"] += sum(status != 0 for status in statuses)
        _judge(experiment, folder, whole, counts)
    return dict(counts)


def _sweep(experiment: Experiment, root: Path, fleet: int) -> None:
    torch.set_num_threads(1)
    assert run_sweep(experiment, root, device="cpu", workers=1, fleet=fleet, engine="planned")


def _fork(experiment: Experiment, root: Path, fleet: int, after: float) -> int:
    """Start a sweep in a process, which dies after this much processor time if not 0."""

    def run() -> None:
        if after:
            end = time.process_time() + after
            threading.Thread(target=_kill_this_process, args=(end,), daemon=True).start()
        _sweep(experiment, root, fleet)

    return _start(run)


def _start(run: Callable[[], None]) -> int:
    """Run a function in a process."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        # tqdm's is shared by processes: one that is killed while it holds it would stop the others.
        tqdm.set_lock(threading.RLock())
        run()
        code = 0
    except BaseException:  # noqa: BLE001
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def _kill_this_process(end: float) -> None:
    """Kill this process by a signal that allows no cleanup, whether it computes or writes."""
    while time.process_time() < end:
        time.sleep(0.0005)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait(*processes: int) -> list[int]:
    return [os.waitpid(process, 0)[1] for process in processes]


def _judge(experiment: Experiment, root: Path, whole: Path, counts: Counter[str]) -> None:
    """Compare a folder with that of an undisturbed sweep; add to the counts."""
    answer = root.with_suffix(".json")

    def judge() -> None:
        answer.write_text(json.dumps(_differences(experiment, root, whole)))

    counts["folders"] += 1
    if _wait(_start(judge)) == [0]:
        counts.update(json.loads(answer.read_text()))
    else:
        counts["failures"] += 1
    print(json.dumps(counts), file=sys.__stderr__, flush=True)


def _differences(experiment: Experiment, root: Path, whole: Path) -> Counter[str]:
    """Count what is wrong in a folder; see `count`."""
    counts: Counter[str] = Counter()
    at = tables_folder(root, experiment.name, experiment.scale)
    for kind in KINDS:
        expected, got = (_rows(tables(experiment, path)[kind]) for path in (whole, root))
        counts["rows_lost"] += max(0, len(expected) - len(got))
        counts["tables_different"] += got != expected
        stored = sum(len(read_shard(path)[0]) for path in at.glob(f"{kind}-*.parquet"))
        counts["rows_twice"] += max(0, stored - len(expected))
    # No other process is left, whose partial files those of the last hour could be.
    with mock.patch.object(_files, "ABANDONED_SECONDS", 0.0):
        _sweep(experiment, root, 4)
    names = ("claim-*", "fleet-*", ".*", "*.broken")
    counts["orphans"] += sum(len(list(root.rglob(name))) for name in names)
    return counts


def _rows(table: Sequence[list[str]]) -> list[list[str]]:
    """Return a table's rows without the names of fleets, which depend on their sizes."""
    if not table:
        return []
    column = table[0].index("fleet") if "fleet" in table[0] else None
    return [[v for i, v in enumerate(row) if i != column] for row in table[1:]]


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    resumable.CHECKPOINT_SECONDS = -1.0
    jobs.WAITING_SECONDS = 0.05
    compute.cost.plan_seconds = lambda *_: (1.0, 0.01)  # no trial every time
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        counts = count(options.kills, options.pairs, options.seed, Path(folder))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
