"""Nets whose best temperature is known by brute force: ``python -m benchmarks.known_nets``.

The table ``threeregime/calibration/known_nets.csv``, which :func:`threeregime.advise` learns from
and is tested on. For each kind of net, dense runs of four seeds are stopped after 2 to 160 epochs;
every dense net is pruned to three densities and retrained as in its dense run for 40 epochs, two
copies each. Their errors on pictures that no rule sees are the truth: whether a hotter or a colder
dense run gives a better pruned net. The same nets are put to the short retraining of ``advise``,
and to one of three times as many steps.
The kinds are in `benchmarks.kinds`; those of the role "test" are for testing alone: nothing was
chosen by them.

Finished kinds are kept: another call goes on with the others. Label noise replaces a share of the
training labels by random ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.kinds import KINDS, Kind, load
from threeregime._files import atomic_write, check_writable
from threeregime.calibration import KNOWN_NETS
from threeregime.data import TensorTask, stream_seed
from threeregime.fleet import Fleet, State
from threeregime.metrics import measure_pairs
from threeregime.protocol import Dense, Retraining
from threeregime.pruning import Masks, prune_masks
from threeregime.results.provenance import commit
from threeregime.training import (
    RATES,
    Callback,
    TrainingRun,
    default_retraining,
    evaluate_errors,
    largest_good_rates,
    train,
)

EPOCHS = (2, 5, 10, 20, 40, 80, 160)
DENSITIES = (0.05, 0.1, 0.3)
SEEDS = (0, 1, 2, 3)
COPIES = 2
BATCH_SIZE = 32
LONGER = 3
"""Length of the longer retraining, in those of `advise`."""


class Checkpoints(Callback):
    """Keep the states of a fleet after some epochs."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def on_epoch_end(self, run: TrainingRun) -> None:
        """Keep the state if it is wanted."""
        if run.epoch in EPOCHS:
            self.states[run.epoch] = run.fleet.state()


def train_dense(kind: Kind, task: TensorTask) -> Fleet:
    """Return the dense nets, in the order of epochs and then of seeds."""
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in kind.build().modules())
    backend = "grouped" if convolutions else "vmapped"
    fleet = Fleet.initial(kind.build, list(SEEDS), backend=backend)
    recipe = Dense(
        lr=kind.lr, weight_decay=kind.weight_decay, batch_size=BATCH_SIZE, epochs=max(EPOCHS),
        milestones=(), optimizer=kind.optimizer,
    )  # fmt: skip
    kept = Checkpoints()
    train(fleet, task, recipe, [stream_seed("dense", seed) for seed in SEEDS], callback=kept)
    states = [kept.states[epochs] for epochs in EPOCHS]
    return fleet.with_state({name: torch.cat([s[name] for s in states]) for name in states[0]})


def copy_seeds(nets: int) -> list[int]:
    """Return the seeds of the copies of some nets: those of `advise`."""
    return [stream_seed("copy", 0, number) for _ in range(nets) for number in range(COPIES)]


def by_copy(name: str, values: Tensor) -> dict[str, np.ndarray]:
    """Return the values of the copies [nets * COPIES] as columns."""
    return {f"{name}_{number}": values[number::COPIES].numpy() for number in range(COPIES)}


def pruned_copies(
    dense: Fleet, density: float, build: Callable[[], nn.Module]
) -> tuple[Fleet, Masks]:
    """Return copies of the dense nets, and the masks of their largest weights."""
    copied = dense.with_state(
        {name: tensor.repeat_interleave(COPIES, dim=0) for name, tensor in dense.state().items()}
    )
    layers = [n for n, m in build().named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    return copied, prune_masks(copied, density, names=[f"{name}.weight" for name in layers[:-1]])


def true_errors(
    kind: Kind, dense: Fleet, density: float, task: TensorTask
) -> dict[str, np.ndarray]:
    """Return the errors of copies that are retrained as the dense net was trained."""
    fleet, masks = pruned_copies(dense, density, kind.build)
    recipe = Retraining(
        lr=kind.lr, weight_decay=kind.weight_decay, batch_size=BATCH_SIZE, epochs=40,
        milestones=(20, 30), optimizer=kind.optimizer,
    )  # fmt: skip
    seeds = [stream_seed("whole", *divmod(number, COPIES)) for number in range(fleet.members)]
    train(fleet, task, recipe, seeds, masks=masks)
    return by_copy("error", evaluate_errors(fleet, task, train=False))


def retrained(
    copies: Fleet, masks: Masks, task: TensorTask, recipe: Retraining, rates: Sequence[float]
) -> Fleet:
    """Return the copies after a retraining, each at its rate."""
    seeds, state = copy_seeds(copies.members // COPIES), copies.state()
    for rate in set(rates):
        rows = torch.tensor(np.flatnonzero(np.array(rates) == rate))
        part = copies.with_state({name: tensor[rows] for name, tensor in copies.state().items()})
        kept = {name: mask[rows] for name, mask in masks.items()}
        train(part, task, replace(recipe, lr=rate), [seeds[row] for row in rows], masks=kept)
        for name, tensor in part.state().items():
            state[name][rows] = tensor
    return copies.with_state(state)


def evidence(kind: Kind, dense: Fleet, density: float, whole: TensorTask) -> dict[str, np.ndarray]:
    """Return what `advise` measures of every net, as columns."""
    task, held_out = whole.hold_out()
    copies, masks = pruned_copies(dense, density, kind.build)
    recipe = default_retraining(task.count, kind.batch_norm)
    first = {name: mask[::COPIES] for name, mask in masks.items()}
    seeds = copy_seeds(dense.members)[::COPIES]
    best = largest_good_rates(dense, task, recipe, seeds, RATES[recipe.optimizer], masks=first)
    rates = [rate for rate in best for _ in range(COPIES)]
    fleet = retrained(copies, masks, task, recipe, rates)
    later = tuple(LONGER * epoch for epoch in recipe.milestones)
    long = replace(recipe, epochs=LONGER * recipe.epochs, milestones=later)
    longer = retrained(copies, masks, task, long, rates)
    return {
        "rate": np.array(best),
        "dense_train": evaluate_errors(dense, task, train=True).numpy(),
        "dense_test": evaluate_errors(dense, task, train=False).numpy(),
        "dense_held_out": evaluate_errors(dense, held_out, train=False).numpy(),
        **measured("", fleet, task, held_out),
        **measured("longer_", longer, task, held_out),
    }


def measured(
    prefix: str, fleet: Fleet, task: TensorTask, held_out: TensorTask
) -> dict[str, np.ndarray]:
    """Return what is measured of retrained copies, as columns."""
    pairs = [(first, first + 1) for first in range(0, fleet.members, COPIES)]
    metrics = measure_pairs(fleet, pairs, task)
    return {
        f"{prefix}lmc": metrics.lmc.numpy(),
        f"{prefix}cka": metrics.cka_softmax.numpy(),
        **by_copy(f"{prefix}train", evaluate_errors(fleet, task, train=True)),
        **by_copy(f"{prefix}test", evaluate_errors(fleet, task, train=False)),
        **by_copy(f"{prefix}held_out", evaluate_errors(fleet, held_out, train=False)),
    }


def rows(kind: Kind) -> pd.DataFrame:
    """Return a row per dense net and density."""
    task, truth = load(kind)
    dense = train_dense(kind, task)
    parts = []
    for density in DENSITIES:
        part = pd.DataFrame(
            {
                "kind": kind.name,
                "role": kind.role,
                "density": density,
                "epochs": np.repeat(EPOCHS, len(SEEDS)),
                "seed": np.tile(SEEDS, len(EPOCHS)),
                **true_errors(kind, dense, density, truth),
                **evidence(kind, dense, density, task),
            }
        )
        parts.append(part)
    return pd.concat(parts).sort_values(["density", "seed", "epochs"])


def finished(path: Path) -> pd.DataFrame:
    """Return the rows of a table that was begun; none if there is none."""
    return pd.read_csv(path, comment="#") if path.exists() else pd.DataFrame({"kind": []})


def write(path: Path, text: str) -> None:
    """Write a table whole or not at all."""
    atomic_write(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def compute(path: Path, kinds: Sequence[Kind]) -> Iterator[str]:
    """Add the missing kinds to a table, and yield a line on each."""
    for kind in kinds:
        known = finished(path)
        if kind.name in set(known["kind"]):
            continue
        start = time.process_time()
        table = pd.concat([known, rows(kind)]) if len(known) else rows(kind)
        header = (
            f"# Nets whose best temperature is known: python -m benchmarks.known_nets, commit "
            f"{commit()}, torch {torch.__version__}\n"
        )
        text = header + table.to_csv(index=False, float_format="%.5g")
        write(path, text)
        yield f"{kind.name}: {(time.process_time() - start) / 60:.1f} min of processor time"


def main() -> None:
    """Compute the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=KNOWN_NETS, help="default: %(default)s")
    names = [kind.name for kind in KINDS]
    parser.add_argument(
        "--kind", action="append", choices=names, metavar="KIND", help="only it; may be repeated"
    )
    options = parser.parse_args()
    try:
        check_writable(options.out.parent)
    except OSError as error:
        parser.error(f"--out {options.out} cannot be written: {error.strerror}")
    chosen = [kind for kind in KINDS if options.kind is None or kind.name in options.kind]
    torch.set_num_threads(1)
    for line in compute(options.out, chosen):
        print(line, flush=True)


if __name__ == "__main__":
    main()
