"""Advice on a net of one's own: should it be trained hotter or colder before it is pruned?

`advise` prunes a copy of the net, retrains two copies for a few epochs and looks at them as the
paper does: by LMC (Equation 1) and CKA (Equation 2), from which the regime and the way to turn the
temperature follow (Sections 3.2 and 4.1). Of several checkpoints it says which to prune (Section
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
from threeregime.advice import user_files as stored
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.calibration import Calibration, load_calibration
from threeregime.advice.candidates import (
    Evidence,
    LiveTrials,
    default_retraining,
    random_state_kept,
)
from threeregime.advice.model import PrunableNet, inspect_net, is_grey, load_weights, state_of
from threeregime.advice.user_data import MAX_EXAMPLES, Sides, draw_split, load_folder
from threeregime.algorithms import Decision, select_by_error, select_by_similarity, tune
from threeregime.analysis import LMC_THRESHOLD, PhaseDiagram
from threeregime.data import TensorTask
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import State, resolve_device

OWN = "the net"
"""What the one candidate is called where no checkpoints are given."""


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
    most: int = MAX_EXAMPLES,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Advice:
    """Say whether a net should be trained hotter or colder before it is pruned.

    Convolution and linear weights are pruned, each layer alike by magnitude (UniformMP, Section
    2.3); the last linear layer, the classifier, is kept. The model is not changed, nor is the state
    of any random number generator.

    Args:
        model: any module from inputs [batch, ...] to outputs [batch, classes], or [batch, places,
            classes] where labels are [batch, places].
        train_data: a DataLoader, a Dataset, two tensors (inputs, labels), or the path of a folder
            of images with ``train/CLASS/IMAGE`` and, if need be, ``test/CLASS/IMAGE`` (grey for a
            net whose first convolution takes one channel).
        density: share of the weights to keep, in (0, 1].
        test_data: likewise, to judge by; without it several checkpoints are compared by their
            training errors and by CKA (Algorithm 2.1).
        checkpoints: states of the model among which to choose, by name: state_dicts, or paths of
            files that hold one. None: the model as it is.
        epochs: of retraining; None: as many as make some 300 steps, from 2 to 20.
        batch_size: in retraining; None: 64, or an eighth of few examples.
        optimizer: "adam" or "sgd" (with momentum 0.9); None: SGD for a net with batch norm.
        lr: its learning rate; None: one that most such nets bear
        (`threeregime.advice.candidates.RATES`).
        copies: retrained from each pruned net, 2 or more; more make LMC and CKA less noisy.
        most: examples of a split that are used at most, drawn at random.
        seed: of that draw, of the copies' orders of the data, and of dropout.
        device: cpu, cuda, cuda:N, or auto for a GPU where there is one.
        progress: whether to show a progress bar; None: if standard error is a terminal.

    Returns:
        The answer; print it to read it.

    Raises:
        ThreeRegimeError: something the user can put right; one line says how.
    """
    begin = time.monotonic()
    require(0 < density <= 1, "density", density, "a fraction in (0, 1]")
    require(copies >= 2, "copies", copies, "2 or more, since LMC and CKA compare two")
    require(most >= 2, "most", most, "2 or more examples")
    require(checkpoints is None or len(checkpoints) > 0, "checkpoints", {}, "one or more")
    place = _device(device)
    with random_state_kept(seed):
        train, test = _splits(model, train_data, test_data, most, seed)
        subject = inspect_net(model, train, own=checkpoints is None)
        states = _states(subject, checkpoints)
        task = TensorTask("the given data", train, test, subject.classes)
        recipe = default_retraining(
            task.count, subject.batch_norm, epochs, batch_size, optimizer, lr
        )
        with tqdm(
            total=0,
            unit="step",
            file=sys.stderr,
            leave=False,
            disable=None if progress is None else not progress,
        ) as bar:
            live = LiveTrials(subject, states, task.to(place), density, recipe, copies, seed, bar)
            decision = _decided(live)
    found = _evidence(live, decision.chosen)
    steps = recipe.epochs * (task.count // recipe.batch_size)
    regime, chances, basis = _regime(found, load_calibration(steps))
    return Advice(
        regime=regime,
        probabilities=chances,
        basis=basis,
        chosen=decision.chosen,
        rule=decision.rule if len(states) > 1 else "",
        density=density,
        evidence=dict(live.evidence),
        dense=dict(live.dense),
        retraining={
            "optimizer": recipe.optimizer,
            "lr": recipe.lr,
            "milestones": list(recipe.milestones),
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "copies": copies,
            "seed": seed,
        },
        pruned={
            "weights": subject.weights,
            "layers": len(subject.prunable),
            "classifier": subject.classifier,
        },
        examples={
            "train": task.count,
            "train_found": train.found,
            "test": None if test is None else len(test.truth),
            "test_found": None if test is None else test.found,
        },
        cost=Cost(
            epochs=live.steps // max(1, task.count // recipe.batch_size),
            steps=live.steps,
            seconds=time.monotonic() - begin,
            device=str(place),
        ),
    )


def _device(name: str) -> torch.device:
    """The device, if it is there."""
    return torch.zeros(1, device=resolve_device(name)).device


def _splits(model: nn.Module, train_data: Any, test_data: Any, most: int, seed: int) -> Sides:
    """Both splits, drawn at random; a folder may hold both."""
    if isinstance(train_data, str | Path):
        path = Path(str(train_data).removeprefix("folder:"))
        train, test = load_folder(path, most, seed, grey=is_grey(model))
    else:
        train, test = draw_split(train_data, most, seed, "training"), None
    return train, test if test_data is None else draw_split(test_data, most, seed, "test")


def _states(subject: PrunableNet, checkpoints: Mapping[str, Any] | None) -> dict[str, State]:
    """Candidates by name."""
    if checkpoints is None:
        return {OWN: state_of(subject.net)}
    states = {}
    for name, given in checkpoints.items():
        weights = stored.read_weights(Path(given)) if isinstance(given, str | Path) else given
        states[str(name)] = load_weights(subject.net, weights, str(name))
    return states


def _decided(live: LiveTrials) -> Decision[str]:
    """What the paper's rules say: Algorithm 1 of one candidate, 2 or 2.1 of several."""
    epochs = live.retraining_epochs
    if len(live.candidates) == 1:
        (only,) = live.candidates
        if np.isnan(live.dense_error(only)):
            raise ThreeRegimeError(f"{only} has diverged: take an earlier state of it")
        return tune(live, only, epochs=epochs)
    if live.task.test is not None:
        return select_by_error(live, epochs=epochs)
    return select_by_similarity(live, epochs=epochs)


def _evidence(live: LiveTrials, chosen: str) -> Evidence:
    """What the chosen candidate's copies show, if they show anything."""
    found = live.evidence[chosen]
    if np.isnan(found.lmc):
        raise ThreeRegimeError(
            f"the copies of {chosen} diverged in retraining: give a lower lr than {live.recipe.lr}"
        )
    if np.isnan(found.cka):
        raise ThreeRegimeError(
            f"the copies of {chosen} answer the same whatever the input: keep more weights than "
            f"{live.density:g}, or retrain for more than {live.recipe.epochs} epochs"
        )
    return found


def _regime(found: Evidence, known: Calibration | None) -> tuple[str, dict[str, float] | None, str]:
    """The regime, the probability of each and what these stand on.

    LMC splits I from II at the paper's threshold. Of II-A and II-B it is the likelier one; where
    nothing is known of nets that look alike, CKA splits them where it splits the paper's own.
    """
    chances = None if known is None else known.probabilities(found.lmc, found.cka)
    if chances is not None and known is not None:
        second = max(("II-A", "II-B"), key=lambda name: chances[name])
        return ("I" if found.lmc < LMC_THRESHOLD else second), chances, known.words
    threshold = PhaseDiagram.from_reference().cka_threshold
    basis = (
        "no tables of this project are here to tell it"
        if known is None
        else "none of this project's own nets looked like this"
    )
    basis += f"; regimes are split at LMC {LMC_THRESHOLD:g} and CKA {threshold:.3f}, as the paper's"
    second = "II-A" if found.cka < threshold else "II-B"
    return ("I" if found.lmc < LMC_THRESHOLD else second), None, basis
