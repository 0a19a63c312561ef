"""The README's example of advice, checked by brute force: all stops, pruned and retrained."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

from threeregime._paths import ROOT
from threeregime.calibration.known_nets import true_directions
from threeregime.data import TensorSplit, TensorTask, stream_seed
from threeregime.fleet import Fleet
from threeregime.protocol import Dense, Retraining
from threeregime.pruning import prune_masks
from threeregime.training import Callback, TrainingRun, evaluate_errors, train

STOPS = (5, 10, 20, 40)
SEEDS = (0, 1, 2, 3)
COPIES = 2
BATCH_SIZE = 50
DENSITY = 0.1


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What the README's code leaves."""
    section = (ROOT / "README.md").read_text().split("\n## Advice for your own net\n")[1]
    code = section.split("```python\n")[1].split("```")[0]
    assert f"density={DENSITY}" in code
    assert f"range({STOPS[2]})" in code
    assert f"split({BATCH_SIZE})" in code
    scope: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(code, "README.md", "exec"), scope)
    return scope


class Stops(Callback):
    """Keep the states of a fleet at its stops."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_epoch_end(self, run: TrainingRun) -> None:
        if run.epoch in STOPS:
            self.states += [run.fleet.state()]


def directions(example: dict[str, Any]) -> pd.Series[Any]:
    """Train the net of the README for other numbers of epochs; prune and retrain it to the end."""
    inputs, labels = example["inputs"], example["labels"].long()
    splits = (slice(0, 1000), slice(1000, None))
    train_split, test_split = (
        TensorSplit(inputs[rows], labels[rows], len(labels[rows])) for rows in splits
    )
    task = TensorTask("digits", train_split, test_split, 10)
    kinds: dict[str, Any] = {"lr": 1e-3, "batch_size": BATCH_SIZE, "optimizer": "adam"}
    kinds |= {"weight_decay": 0.0}

    def build() -> torch.nn.Module:
        layers = [torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100)]
        return torch.nn.Sequential(*layers, torch.nn.ReLU(), torch.nn.Linear(100, 10))

    kept = Stops()
    dense = Fleet.initial(build, list(SEEDS), backend="vmapped")
    recipe = Dense(epochs=max(STOPS), milestones=(), **kinds)
    train(dense, task, recipe, [stream_seed("dense", seed) for seed in SEEDS], callback=kept)
    state = {
        name: torch.cat([stop[name] for stop in kept.states]).repeat_interleave(COPIES, dim=0)
        for name in kept.states[0]
    }
    copies = dense.with_state(state)
    masks = prune_masks(copies, DENSITY, names=["0.weight", "2.weight"])
    seeds = [stream_seed("copy", number) for number in range(copies.members)]
    retraining = Retraining(epochs=40, milestones=(20, 30), **kinds)
    train(copies, task, retraining, seeds, masks=masks)
    errors = evaluate_errors(copies, task, train=False).view(-1, COPIES).mean(dim=1)
    table = pd.DataFrame(
        {
            "kind": "README",
            "density": DENSITY,
            "epochs": [stop for stop in STOPS for _ in SEEDS],
            "seed": list(SEEDS) * len(STOPS),
            "error": errors.numpy(),
        }
    )
    return true_directions(table).set_index("epochs")["truth"]


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_answer_is_right(example: dict[str, Any]) -> None:
    answer = example["advice"]
    assert not answer.open
    assert answer.turn == directions(example)[STOPS[2]]
