"""Candidates that are pruned, retrained and measured live, for the paper's rules.

A candidate is a state of one net, any `torch.nn.Module`. It is pruned, two copies of it are
retrained as one fleet, each on its own order of the data, and compared by LMC and CKA.
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

from threeregime._fields import require
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
"""Default number of steps of a retraining, within 2 to 20 epochs."""
RATES = {("sgd", True): 0.1, ("sgd", False): 1e-2, ("adam", True): 1e-2, ("adam", False): 1e-3}
"""Learning rates by optimizer and presence of batch norm, which tolerates larger ones."""


@dataclass(frozen=True)
class DenseErrors:
    """Errors of a net before it is pruned, fractions; ``test`` is None without test data."""

    train: float
    test: float | None

    @property
    def error(self) -> float:
        """Test error or, without test data, training error."""
        return self.train if self.test is None else self.test


@dataclass(frozen=True)
class Evidence:
    """Measurements of the retrained copies of one pruned net.

    Attributes:
        lmc: linear mode connectivity (Equation 1), mean over pairs.
        cka: CKA of softmax outputs (Equation 2), mean over pairs.
        curve: training errors along the line between the copies of each pair, fractions.
        train: training error of each copy, a fraction.
        test: test error of each copy; None without test data.
    """

    lmc: float
    cka: float
    curve: tuple[tuple[float, ...], ...]
    train: tuple[float, ...]
    test: tuple[float, ...] | None

    @property
    def errors(self) -> tuple[float, ...]:
        """Test errors or, without test data, training errors."""
        return self.train if self.test is None else self.test


def default_retraining(
    examples: int,
    batch_norm: bool,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
) -> Retraining:
    """Return a short retraining that suits most nets.

    Args:
        examples: number of training examples.
        batch_norm: whether the net has batch norm.
        epochs: default: as many as make 300 steps, from 2 to 20.
        batch_size: default: 64, or an eighth of the examples if these are few.
        optimizer: default: sgd (momentum 0.9) with batch norm, as in the paper, else adam.
        lr: default: `RATES`. It falls to a tenth after half of the epochs, and again after three
            quarters.

    Raises:
        ThreeRegimeError: a value that is not allowed.
    """
    if optimizer is None:
        optimizer = "sgd" if batch_norm else "adam"
    if batch_size is None:
        batch_size = max(2, min(64, examples // 8))
    allowed = f"from 2 to the number of training examples, {examples}"
    require(2 <= batch_size <= examples, "batch_size", batch_size, allowed)
    if epochs is None:
        epochs = min(20, max(2, -(-TARGET_STEPS // (examples // batch_size))))
    require(epochs >= 1, "epochs", epochs, "1 or more")
    milestones = sorted({m for m in (epochs // 2, 3 * epochs // 4) if 0 < m < epochs})
    return Retraining(
        lr=RATES.get((optimizer, batch_norm), 1e-3) if lr is None else lr,
        weight_decay=0.0,
        batch_size=batch_size,
        epochs=epochs,
        milestones=tuple(milestones),
        optimizer=optimizer,
    )


class _StepBar(Callback):
    """A progress bar of training steps."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def on_step_end(self, run: TrainingRun) -> None:
        """Advance the bar."""
        self.bar.update()


@dataclass
class LiveTrials:
    """Candidates by name, as `threeregime.algorithms.selection.Trials` that run now.

    Attributes:
        net: the net that they are states of.
        states: tensors by name of each candidate.
        task: examples to retrain on and to measure with, on the device.
        density: fraction of the weights to keep.
        recipe: the retraining.
        copies: number of retrained copies, 2 or more.
        seed: of the copies' order of the data, and of dropout.
        bar: a tqdm bar of steps.
        evidence: measurements of the candidates retrained so far.
        dense: errors of the dense nets measured so far.
        steps: training steps of all copies so far.
    """

    net: PrunableNet
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
        """Names of the candidates."""
        return list(self.states)

    @property
    def retraining_epochs(self) -> int:
        """Epochs of the short retraining, the only one here."""
        return self.recipe.epochs

    def dense_error(self, candidate: str) -> float:
        """Return the error of the dense net on test data or, without these, on training data."""
        if candidate not in self.dense:
            with self._trial_settings():
                fleet = self._fleet(candidate, 1)
                (train_error,), test_errors = self._errors(fleet)
            test_error = None if test_errors is None else test_errors[0]
            self.dense[candidate] = DenseErrors(train_error, test_error)
        return self.dense[candidate].error

    def retrain(self, candidate: str, epochs: int) -> Measurement:
        """Prune a candidate, retrain and measure its copies; NaN if the candidate diverged."""
        if np.isnan(self.dense_error(candidate)):
            return Measurement(np.nan, np.nan, np.nan)
        with self._trial_settings():
            fleet = self._fleet(candidate, self.copies)
            self._train(fleet, candidate, epochs)
            evidence = self._measure(fleet)
        self.evidence[candidate] = evidence
        error = np.nan if evidence.test is None else float(np.mean(evidence.test))
        return Measurement(error, evidence.lmc, evidence.cka)

    def _fleet(self, candidate: str, copies: int) -> Fleet:
        state = {n: torch.stack([t] * copies) for n, t in self.states[candidate].items()}
        device = self.task.train.inputs.device
        return Fleet(lambda: self.net.module, state, device, backend="separate")

    def _train(self, fleet: Fleet, candidate: str, epochs: int) -> None:
        """Prune all copies with the same mask and retrain each on its own order of the data."""
        steps = epochs * (self.task.count // self.recipe.batch_size)
        self.bar.set_description(f"{candidate}: retraining {self.copies} copies")
        self.bar.total = self.bar.n + steps
        self.bar.refresh()
        train(
            fleet,
            self.task,
            self.recipe,
            [stream_seed("copy", self.seed, number) for number in range(self.copies)],
            masks=prune_masks(fleet, self.density, names=self.net.prunable),
            epochs=epochs,
            threads=None,
            callback=_StepBar(self.bar),
        )
        self.steps += steps * self.copies

    def _measure(self, fleet: Fleet) -> Evidence:
        self.bar.set_description("measuring LMC and CKA")
        members = list(combinations(range(self.copies), 2))
        with warnings.catch_warnings():
            # The advisor raises an error of its own for constant outputs, which have no CKA.
            warnings.filterwarnings("ignore", "CKA is undefined", RuntimeWarning)
            pairs = measure_pairs(fleet, members, self.task, threads=None)
        return Evidence(
            float(pairs.lmc.mean()),
            float(pairs.cka_softmax.mean()),
            tuple(tuple(curve) for curve in pairs.curve.tolist()),
            *self._errors(fleet),
        )

    def _errors(self, fleet: Fleet) -> tuple[tuple[float, ...], tuple[float, ...] | None]:
        """Return training and test errors of the members; None without test data."""
        train_errors = tuple(evaluate_errors(fleet, self.task, train=True).tolist())
        if self.task.test is None:
            return train_errors, None
        return train_errors, tuple(evaluate_errors(fleet, self.task, train=False).tolist())

    @contextmanager
    def _trial_settings(self) -> Iterator[None]:
        """Seed dropout, evaluate attention as in training, and explain a lack of memory."""
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with random_state_kept(stream_seed("live", self.seed)):
                yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ThreeRegimeError(
                f"{self.task.train.inputs.device} has no memory left for {self.copies} copies at "
                f"batch_size = {self.recipe.batch_size}: give a smaller one"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def random_state_kept(seed: int) -> Iterator[None]:
    """Seed PyTorch inside the context; restore all random number generators after it."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - a user's code may use it
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(seed)
            if devices:
                torch.cuda.manual_seed_all(seed)
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
