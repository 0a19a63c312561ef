"""Candidates that are pruned, retrained and measured here and now: the live side of the rules.

A candidate is a state of one net, any `torch.nn.Module`. It is pruned, two copies are retrained
from it as one fleet, each on its own order of the data, and compared by LMC and CKA.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch

from threeregime.advice.model import PrunableNet
from threeregime.algorithms import Measurement
from threeregime.data import TensorTask, stream_seed
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import Fleet, State, is_out_of_memory
from threeregime.metrics import measure_pairs
from threeregime.protocol import Retraining
from threeregime.pruning import prune_masks
from threeregime.training import Callback, TrainingRun, evaluate_errors, train

TARGET_STEPS = 300
"""Steps that a copy is retrained for by default, if this takes from 2 to 20 epochs."""
RATES = {("sgd", True): 0.1, ("sgd", False): 1e-2, ("adam", True): 1e-2, ("adam", False): 1e-3}
"""Learning rates by optimizer and whether there is batch norm, which bears larger ones."""


@dataclass(frozen=True)
class DenseErrors:
    """Errors of a net before it is pruned, fractions; ``test`` is None without test data."""

    train: float
    test: float | None


@dataclass(frozen=True)
class Evidence:
    """What retrained copies of one pruned net show.

    Attributes:
        lmc: mean over pairs of their linear mode connectivity (Equation 1).
        cka: mean over pairs of the similarity of their softmax outputs (Equation 2).
        curve: training errors along the line between the copies of each pair, fractions.
        train: training error of each copy.
        test: test error of each copy; None without test data.
    """

    lmc: float
    cka: float
    curve: tuple[tuple[float, ...], ...]
    train: tuple[float, ...]
    test: tuple[float, ...] | None


def default_retraining(
    examples: int,
    batch_norm: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
) -> Retraining:
    """A short retraining that suits most nets; what is None is chosen for them.

    Nets with batch norm are retrained as the paper's are: by SGD with momentum 0.9 at a rate of
    0.1 (Section 3.1); others by Adam at 1e-3, which most bear. Batches are of 64, or of an eighth
    of few examples. The rate falls to a tenth after half of the epochs and again after three
    quarters.
    """
    if optimizer is None:
        optimizer = "sgd" if batch_norm else "adam"
    if batch_size is None:
        batch_size = max(2, min(64, examples // 8))
    if batch_size < 2 or batch_size > examples:
        raise ThreeRegimeError(
            f"batch_size = {batch_size} is not allowed: from 2 to the number of training examples, "
            f"{examples}"
        )
    if epochs is None:
        epochs = min(20, max(2, -(-TARGET_STEPS // (examples // batch_size))))
    if epochs < 1:
        raise ThreeRegimeError(f"epochs = {epochs} is not allowed: 1 or more")
    milestones = sorted({m for m in (epochs // 2, 3 * epochs // 4) if 0 < m < epochs})
    return Retraining(
        lr=RATES.get((optimizer, batch_norm), 1e-3) if lr is None else lr,
        weight_decay=0.0,
        batch_size=batch_size,
        epochs=epochs,
        milestones=tuple(milestones),
        optimizer=optimizer,
    )


class _Bar(Callback):
    """Moves a progress bar at every step."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_step_end(self, run: TrainingRun) -> None:
        """Move it on by one."""
        self.bar.update()


@dataclass
class LiveTrials:
    """Candidates by name; a `threeregime.algorithms.selection.Trials`.

    Attributes:
        subject: the net whose states they are.
        states: tensors by name of each candidate.
        task: examples to retrain on and to measure with, on the device.
        density: share of the weights that is kept.
        recipe: how copies are retrained.
        copies: how many, 2 or more.
        seed: of the copies' orders, and of dropout.
        bar: a tqdm bar that is told of every step.
        evidence: of the candidates retrained so far.
        steps: training steps of all copies so far.
    """

    subject: PrunableNet
    states: Mapping[str, State]
    task: TensorTask
    density: float
    recipe: Retraining
    copies: int
    seed: int
    bar: Any
    evidence: dict[str, Evidence] = field(default_factory=dict)
    dense: dict[str, DenseErrors] = field(default_factory=dict)
    steps: int = 0

    @property
    def candidates(self) -> Sequence[str]:
        """Their names."""
        return list(self.states)

    @property
    def retraining_epochs(self) -> int:
        """Of the short retraining, which is all there is here."""
        return self.recipe.epochs

    def dense_error(self, candidate: str) -> float:
        """Error of the dense net: on test data, or where there are none on the training data."""
        if candidate not in self.dense:
            with self._reproducible(), self._enough_memory():
                fleet = self._fleet(candidate, 1)
                train = float(evaluate_errors(fleet, self.task, train=True))
                tested = self.task.test is not None
                test = float(evaluate_errors(fleet, self.task, train=False)) if tested else None
            self.dense[candidate] = DenseErrors(train, test)
        found = self.dense[candidate]
        return found.train if found.test is None else found.test

    def retrain(self, candidate: str, epochs: int) -> Measurement:
        """Prune a candidate, retrain its copies and measure them; one that diverged has no LMC."""
        if np.isnan(self.dense_error(candidate)):
            return Measurement(np.nan, np.nan, np.nan)
        with self._reproducible(), self._enough_memory():
            fleet = self._fleet(candidate, self.copies)
            self._train(fleet, candidate, epochs)
            found = self._measured(fleet)
        self.evidence[candidate] = found
        error = np.nan if found.test is None else float(np.mean(found.test))
        return Measurement(error, found.lmc, found.cka)

    def _fleet(self, candidate: str, copies: int) -> Fleet:
        state = {n: torch.stack([t] * copies) for n, t in self.states[candidate].items()}
        device = self.task.train.inputs.device
        return Fleet(lambda: self.subject.net, state, device, backend="separate")

    def _train(self, fleet: Fleet, candidate: str, epochs: int) -> None:
        """Prune all copies alike and retrain them, each on its own order of the data."""
        steps = epochs * (self.task.count // self.recipe.batch_size)
        self.bar.set_description(f"{candidate}: retraining {self.copies} copies")
        self.bar.total = self.bar.n + steps
        self.bar.refresh()
        train(
            fleet,
            self.task,
            self.recipe,
            [stream_seed("copy", self.seed, number) for number in range(self.copies)],
            masks=prune_masks(fleet, self.density, names=self.subject.prunable),
            epochs=epochs,
            threads=None,
            callback=_Bar(self.bar),
        )
        self.steps += steps * self.copies

    def _measured(self, fleet: Fleet) -> Evidence:
        self.bar.set_description("measuring LMC and CKA")
        pairs = list(combinations(range(self.copies), 2))
        with warnings.catch_warnings():
            # Copies whose outputs are constant have no CKA; the answer says so in its own words.
            warnings.filterwarnings("ignore", "CKA is undefined", RuntimeWarning)
            found = measure_pairs(fleet, pairs, self.task, threads=None)
        tested = self.task.test is not None
        return Evidence(
            float(found.lmc.mean()),
            float(found.cka_softmax.mean()),
            tuple(tuple(curve) for curve in found.curve.tolist()),
            tuple(evaluate_errors(fleet, self.task, train=True).tolist()),
            tuple(evaluate_errors(fleet, self.task, train=False).tolist()) if tested else None,
        )

    @contextmanager
    def _reproducible(self) -> Iterator[None]:
        """Dropout starts from the seed; attention computes in evaluation as it does in training."""
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with random_state_kept(stream_seed("live", self.seed)):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)

    @contextmanager
    def _enough_memory(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ThreeRegimeError(
                f"{self.task.train.inputs.device} has no memory left for {self.copies} copies at "
                f"batch_size = {self.recipe.batch_size}: give a smaller one"
            ) from error


@contextmanager
def random_state_kept(seed: int) -> Iterator[None]:
    """Inside, random numbers of PyTorch start from a seed; outside they go on as if nothing was."""
    theirs = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a user's code draws on
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(theirs[0])
        np.random.set_state(theirs[1])  # noqa: NPY002
