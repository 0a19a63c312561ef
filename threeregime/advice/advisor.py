"""Advice on any net: train it hotter or colder before it is pruned?

`advise` prunes a copy of the net, retrains two copies of that for a few epochs, and compares them
by LMC (Equation 1) and CKA (Equation 2), as the paper does. These give the regime and the change of
temperature (Sections 3.2 and 4.1). Given several checkpoints, it chooses the one to prune (Section
4.2, Algorithms 2 and 2.1).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from threeregime._fields import require
from threeregime.advice import user_files
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.calibration import Calibration, load_calibration
from threeregime.advice.candidates import (
    Evidence,
    LiveTrials,
    default_retraining,
    random_state_kept,
)
from threeregime.advice.model import PrunableNet, inspect_net, is_grey, load_weights, state_of
from threeregime.advice.user_data import MAX_EXAMPLES, Splits, draw_split, load_folder
from threeregime.algorithms import Decision, select_by_error, select_by_similarity, tune
from threeregime.analysis import LMC_THRESHOLD, PhaseDiagram
from threeregime.data import TensorTask
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import State, resolve_device

RETRAINING_FIELDS = ("optimizer", "lr", "milestones", "epochs", "batch_size")
OWN = "the net"
"""Name of the only candidate if there are no checkpoints."""


def advise(
    model: nn.Module,
    train_data: Any,
    *,
    density: float = 0.05,
    test_data: Any = None,
    checkpoints: Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    copies: int = 2,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Advice:
    """Recommend hotter or colder training of a net before it is pruned.

    The weights of convolutions and linear layers are pruned by magnitude, uniformly per layer
    (UniformMP, Section 2.3), except in the last linear layer, the classifier. The model and the
    state of all random number generators stay unchanged.

    Args:
        model: module from inputs [batch, ...] to outputs [batch, classes], or [batch, positions,
            classes] for labels [batch, positions].
        train_data: a DataLoader, a Dataset, two tensors (inputs, labels), or the path of a folder
            of images ``train/CLASS/IMAGE`` and optionally ``test/CLASS/IMAGE``.
        density: fraction of the weights to keep, in (0, 1].
        test_data: like ``train_data``. Without it, checkpoints are compared by training error and
            CKA (Algorithm 2.1).
        checkpoints: candidates by name: state_dicts, or paths of their files. None: the model.
        epochs, batch_size, optimizer, lr: retraining. By default it makes about 300 steps (from 2
            to 20 epochs) in batches of 64 examples, or fewer if there are few examples, by SGD with
            momentum if the net has batch norm, otherwise by Adam.
        copies: number of copies to retrain, 2 or more; more copies reduce noise.
        max_examples: examples of a split to draw at most.
        seed: of the draw, the order of the data in retraining, and dropout.
        device: cpu, cuda, cuda:N, or auto for a GPU if there is one.
        progress: whether to show a progress bar; None: if standard error is a terminal.

    Raises:
        ThreeRegimeError: an argument, the net or the data cannot be used.
    """
    start = time.monotonic()
    require(0 < density <= 1, "density", density, "a fraction in (0, 1]")
    require(copies >= 2, "copies", copies, "2 or more, since LMC and CKA compare two")
    require(max_examples >= 2, "max_examples", max_examples, "2 or more examples")
    require(checkpoints is None or len(checkpoints) > 0, "checkpoints", {}, "one or more")
    resolved = _resolve_device(device)
    with random_state_kept(seed):
        train, test = _draw_splits(model, train_data, test_data, max_examples, seed)
        net = inspect_net(model, train, check_weights=checkpoints is None)
        states = _load_states(net, checkpoints)
        task = TensorTask("the given data", train, test, net.classes)
        recipe = default_retraining(task.count, net.batch_norm, epochs, batch_size, optimizer, lr)
        with _progress_bar(progress) as bar:
            trials = LiveTrials(net, states, task.to(resolved), density, recipe, copies, seed, bar)
            decision = _apply_rule(trials)
    return _make_advice(trials, decision, start)


def _resolve_device(name: str) -> torch.device:
    """Return a device with its index, e.g. cuda:0 for cuda."""
    return torch.zeros(1, device=resolve_device(name)).device


def _progress_bar(progress: bool | None) -> Any:
    """Return a bar of training steps; it is cleared at the end."""
    disable = None if progress is None else not progress
    return tqdm(total=0, unit="step", file=sys.stderr, leave=False, disable=disable)


def _draw_splits(
    model: nn.Module, train_data: Any, test_data: Any, max_examples: int, seed: int
) -> Splits:
    """Draw examples of both splits at random; a folder may hold both."""
    if isinstance(train_data, str | Path):
        path = Path(str(train_data).removeprefix("folder:"))
        train, test = load_folder(path, max_examples, seed, grey=is_grey(model))
    else:
        train, test = draw_split(train_data, max_examples, seed, "training"), None
    return train, test if test_data is None else draw_split(test_data, max_examples, seed, "test")


def _load_states(net: PrunableNet, checkpoints: Mapping[str, Any] | None) -> dict[str, State]:
    """Return the states of the candidates by name."""
    if checkpoints is None:
        return {OWN: state_of(net.module)}
    states = {}
    for name, value in checkpoints.items():
        weights = user_files.read_weights(Path(value)) if isinstance(value, str | Path) else value
        states[str(name)] = load_weights(net.module, weights, str(name))
    return states


def _apply_rule(trials: LiveTrials) -> Decision[str]:
    """Apply Algorithm 1 to a single candidate, and Algorithm 2 or 2.1 to several."""
    epochs = trials.retraining_epochs
    if len(trials.candidates) == 1:
        (candidate,) = trials.candidates
        if np.isnan(trials.dense_error(candidate)):
            raise ThreeRegimeError(f"{candidate} has diverged: take an earlier state of it")
        return tune(trials, candidate, epochs=epochs)
    if trials.task.test is not None:
        return select_by_error(trials, epochs=epochs)
    return select_by_similarity(trials, epochs=epochs)


def _make_advice(trials: LiveTrials, decision: Decision[str], start: float) -> Advice:
    """Return the answer to a decision; ``start`` is the monotonic time of the question."""
    evidence = _evidence(trials, decision.chosen)
    recipe, task, net = trials.recipe, trials.task, trials.net
    steps_per_epoch = task.count // recipe.batch_size
    calibration = load_calibration(recipe.epochs * steps_per_epoch)
    regime, probabilities, basis = _regime(evidence, calibration)
    return Advice(
        regime=regime,
        probabilities=probabilities,
        basis=basis,
        chosen=decision.chosen,
        rule=decision.rule if len(trials.candidates) > 1 else "",
        density=trials.density,
        evidence=dict(trials.evidence),
        dense=dict(trials.dense),
        retraining={
            **{name: getattr(recipe, name) for name in RETRAINING_FIELDS},
            "copies": trials.copies,
            "seed": trials.seed,
        },
        pruned={"weights": net.weights, "layers": len(net.prunable), "classifier": net.classifier},
        examples={
            "train": task.count,
            "train_found": task.train.available,
            "test": None if task.test is None else len(task.test.targets),
            "test_found": None if task.test is None else task.test.available,
        },
        cost=Cost(
            epochs=trials.steps // max(1, steps_per_epoch),
            steps=trials.steps,
            seconds=time.monotonic() - start,
            device=str(task.train.inputs.device),
        ),
    )


def _evidence(trials: LiveTrials, chosen: str) -> Evidence:
    """Return the measurements of the chosen candidate's copies, if LMC and CKA are defined."""
    evidence = trials.evidence[chosen]
    if np.isnan(evidence.lmc):
        raise ThreeRegimeError(
            f"the copies of {chosen} diverged in retraining: give a lower lr than "
            f"{trials.recipe.lr}"
        )
    if np.isnan(evidence.cka):
        raise ThreeRegimeError(
            f"the copies of {chosen} answer the same whatever the input: keep more weights than "
            f"{trials.density:g}, or retrain for more than {trials.recipe.epochs} epochs"
        )
    return evidence


def _regime(
    evidence: Evidence, calibration: Calibration | None
) -> tuple[str, dict[str, float] | None, str]:
    """Return the regime, the probability of each regime, and the basis of these.

    The paper's threshold of LMC separates I from II. Of II-A and II-B the more probable one is
    taken or, without probabilities, the one on this side of the paper's threshold of CKA.
    """
    poor = evidence.lmc < LMC_THRESHOLD
    reason = "no tables of this project are here to tell it"
    if calibration is not None:
        probabilities = calibration.probabilities(evidence.lmc, evidence.cka)
        if probabilities is not None:
            well_connected = max(("II-A", "II-B"), key=probabilities.__getitem__)
            return "I" if poor else well_connected, probabilities, calibration.words
        reason = "none of this project's own nets looked like this"
    threshold = PhaseDiagram.from_reference().cka_threshold
    basis = (
        f"{reason}; regimes are split at LMC {LMC_THRESHOLD:g} and CKA {threshold:.3f}, as the "
        "paper's"
    )
    well_connected = "II-A" if evidence.cka < threshold else "II-B"
    return "I" if poor else well_connected, None, basis
