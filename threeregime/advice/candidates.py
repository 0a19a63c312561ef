"""Candidates that are pruned, retrained and measured live, for the paper's rules.

A candidate is a state of one net, any `torch.nn.Module`. It is pruned, two copies of it are
retrained as one fleet, each on its own order of the data, and compared by LMC and CKA.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threeregime.advice.judgement import DenseErrors, Evidence
from threeregime.advice.model import PrunableNet, UserTraining, train_as_user
from threeregime.algorithms import Measurement
from threeregime.data import IGNORED_TARGET, TensorTask, stream_seed
from threeregime.errors import ThreeRegimeError, first_line
from threeregime.fleet import Fleet, State, is_out_of_memory, random_state_kept
from threeregime.metrics import measure_pairs
from threeregime.protocol import Retraining
from threeregime.pruning import Masks, prune_masks
from threeregime.training import (
    Callback,
    TrainingRun,
    evaluate_errors,
    evaluate_outputs,
    largest_good_rates,
    range_steps,
    train,
)

BACKWARD = 3
"""Work of a training step on an example, in passes without a gradient."""
TIMED_STEPS = 20
"""Steps at most that a forecast takes."""
LINE_POINTS = 11
CKA_EXAMPLES = 6464
MAX_OUTPUTS = 10_000_000
"""Number of outputs of a net that are kept, to count its predictions."""

MAX_RENUMBERED = 1000
"""With more classes no numbers are compared."""

Errors = tuple[float, ...]
"""An error of each member of a fleet."""


class _StepBar(Callback):
    """A progress bar of training steps; a step is as much work as its passes."""

    def __init__(self, update: Callable[[int], None], work: int) -> None:
        self.update, self.work = update, work

    def on_step_end(self, run: TrainingRun) -> None:
        """Advance the bar."""
        self.update(self.work)


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
        bar: a tqdm bar of work, in passes of a net over an example.
        method: "uniform" (a share of each layer) or "global" (of all layers together).
        training: a user's training of a pruned net; None: the recipe.
        held_out: the same task, its test split training examples that the copies are not retrained
            on; None: no such.
        retrain_all: whether all candidates are retrained, whatever the best dense one shows.
        rates: learning rates for a range test; it is made once, and its result becomes the
            recipe's. None: the recipe has its rate.
        evidence: measurements of the candidates retrained so far.
        dense: errors of the dense nets measured so far.
        steps: training steps of all copies so far.
        searched: whether the recipe's rate was found by the range test.
    """

    net: PrunableNet
    states: Mapping[str, State]
    task: TensorTask
    density: float
    recipe: Retraining
    copies: int
    seed: int
    bar: Any
    method: str = "uniform"
    training: UserTraining | None = None
    held_out: TensorTask | None = None
    retrain_all: bool = False
    rates: Sequence[float] = ()
    evidence: dict[str, Evidence] = field(default_factory=dict)
    dense: dict[str, DenseErrors] = field(default_factory=dict)
    steps: int = 0
    _members: int = 1
    searched: bool = False
    _lower_rates: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.task = replace(self.task, report=self._report)
        if self.held_out is not None:
            self.held_out = replace(self.held_out, report=self._report)

    def _report(self, count: int) -> None:
        """Advance the bar by examples that all members are evaluated on."""
        self.bar.update(count * self._members)

    @property
    def candidates(self) -> Sequence[str]:
        """Names of the candidates."""
        return list(self.states)

    @property
    def retraining_epochs(self) -> int:
        """Epochs of the short retraining, the only one here."""
        return self.recipe.epochs

    @property
    def steps_per_copy(self) -> int:
        """Steps of the retraining of a copy."""
        return self.recipe.epochs * (self.task.count // self.recipe.batch_size)

    @property
    def range_steps(self) -> int:
        """Steps of the range test that is still to be made."""
        return len(self.rates) * range_steps(self.task, self.recipe)

    def dense_error(self, candidate: str) -> float:
        """Return the error of the dense net on data that its copies are not retrained on."""
        if candidate not in self.dense:
            self.bar.set_description(f"{candidate}: dense error")
            with self._trial_settings():
                fleet = self._fleet(candidate, 1)
                (train_error,), test_errors, held_out = self._errors(fleet)
                outputs = self._outputs(fleet)[0]
            targets, classes = self._targets(len(outputs)), self.net.classes
            said = outputs.argmax(dim=-1)
            self.dense[candidate] = DenseErrors(
                train_error,
                None if test_errors is None else test_errors[0],
                tuple(said.bincount(minlength=classes).tolist()),
                float(outputs.softmax(dim=-1).amax(dim=-1).mean()),
                _renumbered_error(said, targets, classes),
                None if held_out is None else held_out[0],
            )
        return self.dense[candidate].unseen

    def retrain(self, candidate: str, epochs: int) -> Measurement:
        """Prune a candidate, retrain and measure its copies; NaN if the candidate diverged."""
        if np.isnan(self.dense_error(candidate)):
            return Measurement(np.nan, np.nan, np.nan)
        evidence = self._retrain(candidate, epochs)
        while np.isnan(evidence.lmc) and self._lower_rates:
            # What went well for the steps of the range test diverged later.
            self.recipe = replace(self.recipe, lr=self._lower_rates.pop())
            evidence = self._retrain(candidate, epochs)
        self.evidence[candidate] = evidence
        return Measurement(float(np.mean(evidence.unseen)), evidence.lmc, evidence.cka)

    def _retrain(self, candidate: str, epochs: int) -> Evidence:
        """Prune a candidate, retrain its copies and measure them."""
        self.bar.total = max(self.bar.total, self.bar.n + self.work())
        with self._trial_settings():
            fleet = self._fleet(candidate, self.copies)
            self._train(fleet, candidate, epochs)
            return self._measure(fleet, self.dense[candidate].classes)

    def expected_work(self) -> int:
        """Return the work of all that is certain to be done, in passes over an example."""
        nets = len(self.candidates) if self.retrain_all else 1
        return self._range_work() + nets * (self.work() - self._range_work())

    def work(self) -> int:
        """Return the work of one candidate, in passes of a net over an example."""
        splits = [task.test for task in (self.task, self.held_out) if task]
        test = sum(len(split.targets) for split in splits if split)
        evaluation = self.task.count + test + self._output_examples()
        pairs = self.copies * (self.copies - 1) // 2
        line = LINE_POINTS * self.task.count * (2 if self.net.batch_norm else 1) * pairs
        cka = min(CKA_EXAMPLES, self.task.count) * pairs
        training = self.steps_per_copy * self.recipe.batch_size * self.copies * BACKWARD
        training = 0 if self.training else training + self._range_work()
        return evaluation * (1 + self.copies) + line + cka + training

    def _range_work(self) -> int:
        """Return the work of the range test that is still to be made."""
        return self.range_steps * self.recipe.batch_size * BACKWARD

    def seconds_per_work(self) -> float:
        """Return the seconds of a pass over an example, from some training steps."""
        times: list[float] = []
        with self._trial_settings():
            fleet = self._fleet(self.candidates[0], self.copies)
            recipe = replace(self.recipe, epochs=1, milestones=(), iterations=TIMED_STEPS)
            callback = _StepBar(lambda work: times.append(time.monotonic()), 0)
            train(fleet, self.task, recipe, range(self.copies), threads=None, callback=callback)
        known = times[1:] if len(times) > 2 else times  # the first step loads libraries
        seconds = (known[-1] - known[0]) / max(1, len(known) - 1)
        return seconds / (self.recipe.batch_size * BACKWARD * self.copies)

    def _targets(self, count: int) -> Tensor:
        """Return the first known training targets, on the CPU."""
        targets = self.task.train.targets
        return targets[targets != IGNORED_TARGET][:count].cpu()

    def _output_examples(self) -> int:
        """Return for how many training examples the predictions are counted."""
        positions = self.task.train.targets[:1].numel()
        most = max(1, MAX_OUTPUTS // (self.net.classes * positions))
        return min(self.task.count, most, CKA_EXAMPLES)

    def _outputs(self, fleet: Fleet) -> Tensor:
        """Return the logits of every member for some training examples, on the CPU."""
        self._members = fleet.members
        positions = self.task.train.targets[:1].numel()
        return evaluate_outputs(fleet, self.task, self._output_examples() * positions).cpu()

    def _fleet(self, candidate: str, copies: int) -> Fleet:
        state = {n: torch.stack([t] * copies) for n, t in self.states[candidate].items()}
        device = self.task.train.inputs.device
        return Fleet(lambda: self.net.module, state, device, backend="separate")

    def _train(self, fleet: Fleet, candidate: str, epochs: int) -> None:
        """Prune all copies with the same mask and retrain each on its own order of the data."""
        self.bar.set_description(f"{candidate}: retraining {self.copies} copies")
        masks = prune_masks(fleet, self.density, self.method, names=self.net.prunable)
        seeds = [stream_seed("copy", self.seed, number) for number in range(self.copies)]
        if self.training is not None:
            fleet.load(train_as_user(self.net.module, fleet.state(), masks, self.training, seeds))
            return
        self._find_rate(candidate, masks, seeds[:1])
        train(
            fleet,
            self.task,
            self.recipe,
            seeds,
            masks=masks,
            epochs=epochs,
            threads=None,
            callback=_StepBar(self.bar.update, BACKWARD * self.recipe.batch_size * self.copies),
        )
        self.steps += self.steps_per_copy * self.copies

    def _find_rate(self, candidate: str, masks: Masks, seeds: Sequence[int]) -> None:
        """Give the recipe its rate by a range test of a pruned net, if it has none."""
        if not self.rates:
            return
        (rate,) = largest_good_rates(
            self._fleet(candidate, 1),
            self.task,
            self.recipe,
            seeds,
            self.rates,
            masks={name: mask[:1] for name, mask in masks.items()},
            threads=None,
            callback=_StepBar(self.bar.update, BACKWARD * self.recipe.batch_size),
        )
        self.steps += self.range_steps
        self.searched = True
        self._lower_rates = sorted(lower for lower in self.rates if lower < rate)
        self.recipe, self.rates = replace(self.recipe, lr=rate), ()

    def _measure(self, fleet: Fleet, dense_classes: Sequence[int] = ()) -> Evidence:
        self.bar.set_description("measuring LMC and CKA")
        members = list(combinations(range(self.copies), 2))
        _share_integers(fleet)
        self._members = len(members)
        with warnings.catch_warnings():
            # The advisor raises an error of its own for constant outputs, which have no CKA.
            warnings.filterwarnings("ignore", "CKA is undefined", RuntimeWarning)
            pairs = measure_pairs(
                fleet, members, self.task, LINE_POINTS, CKA_EXAMPLES, threads=None
            )
        train_errors, test_errors, held_out = self._errors(fleet)
        return Evidence(
            float(pairs.lmc.mean()),
            float(pairs.cka_softmax.mean()),
            tuple(tuple(curve) for curve in pairs.curve.tolist()),
            train_errors,
            test_errors,
            self._lost_classes(fleet, dense_classes),
            held_out,
        )

    def _lost_classes(self, fleet: Fleet, dense_classes: Sequence[int]) -> tuple[int, ...]:
        """Return the classes of the data that the dense net predicts and some copy never does."""
        outputs, classes = self._outputs(fleet), self.net.classes
        said = [o.argmax(dim=-1).bincount(minlength=classes) for o in outputs]
        there = self._targets(outputs.shape[1]).bincount(minlength=classes).tolist()
        fewest = torch.stack(said).amin(dim=0).tolist()
        counts = enumerate(zip(there, dense_classes, fewest, strict=False))
        return tuple(n for n, (data, dense, least) in counts if data and dense and not least)

    def _errors(self, fleet: Fleet) -> tuple[Errors, Errors | None, Errors | None]:
        """Return training, test and held-out errors of the members; None for what is not there."""
        self._members = fleet.members
        train_errors = tuple(evaluate_errors(fleet, self.task, train=True).tolist())
        test_errors, held_out = (
            tuple(evaluate_errors(fleet, task, train=False).tolist())
            if task and task.test
            else None
            for task in (self.task, self.held_out)
        )
        return train_errors, test_errors, held_out

    @contextlib.contextmanager
    def _trial_settings(self) -> Iterator[None]:
        """Seed dropout, evaluate attention as in training, and explain a lack of memory."""
        fast_path = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with random_state_kept(stream_seed("live", self.seed)):
                yield
        except ThreeRegimeError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise ThreeRegimeError(
                    f"{self.task.train.inputs.device} has no memory left for {self.copies} copies "
                    f"at batch_size = {self.recipe.batch_size}: give a smaller one"
                ) from error
            raise ThreeRegimeError(
                f"the net, or the loss, fails in retraining: {type(error).__name__}: "
                f"{first_line(error)}"
            ) from error
        finally:
            torch.backends.mha.set_fastpath_enabled(fast_path)


def _share_integers(fleet: Fleet) -> None:
    """Give all members the first one's buffers of integers, which lie on no line."""
    state = fleet.state()
    for tensor in state.values():
        if not tensor.is_floating_point():
            tensor.copy_(tensor[:1].expand_as(tensor).clone())
    fleet.load(state)


def _renumbered_error(said: Tensor, targets: Tensor, classes: int) -> float:
    """Return the error of predictions [n] whose classes are renumbered to fit the targets best."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    if classes > MAX_RENUMBERED:
        return 1.0
    pairs = said.new_zeros(classes, classes)
    pairs.index_put_((said, targets), torch.ones_like(said), accumulate=True)
    rows, columns = linear_sum_assignment(-pairs.numpy())
    return 1 - float(pairs[rows, columns].sum()) / max(1, len(said))
