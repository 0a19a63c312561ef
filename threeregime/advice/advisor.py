"""Advice on any net: train it hotter or colder before it is pruned?

`advise` prunes a copy of the net, retrains two copies of that for some hundred steps, and compares
them by LMC (Equation 1) and CKA (Equation 2), as the paper does. These give the regime (Section
3.2); the direction is learned from nets whose truth is known by brute force. Given several
checkpoints, it chooses the one to prune (Section 4.2, Algorithms 2 and 2.1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from threeregime._fields import require
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.candidates import LiveTrials
from threeregime.advice.checkpoints import load_states
from threeregime.advice.inspection import inspect_net
from threeregime.advice.judgement import (
    MIN_EXAMPLES,
    DataFacts,
    Evidence,
    Finding,
    find_dense_problems,
    find_known_by_heart,
    find_problems,
    judge,
)
from threeregime.advice.model import Forward, UserTraining, state_of
from threeregime.advice.progress import announce, progress_bar
from threeregime.advice.user_data import (
    MAX_EXAMPLES,
    Splits,
    draw_split,
    is_grey,
    load_folder,
    split_pair,
)
from threeregime.algorithms import (
    Decision,
    grid_search,
    select_by_error,
    select_by_similarity,
    tune,
)
from threeregime.calibration import load_calibration
from threeregime.data import IGNORED_TARGET, TensorTask
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import compute_settings, random_state_kept, resolve_device, spare_threads
from threeregime.training import RATES, default_retraining

RETRAINING_FIELDS = ("optimizer", "lr", "weight_decay", "milestones", "epochs", "batch_size")
METHODS = ("uniform", "global")
MAX_SIDE = 4096
"""Pixels to which a picture may be scaled, each way."""
HELD_OUT = 0.2
"""Share of the training examples that the copies are not retrained on."""
OWN = "the net"
"""Name of the only candidate if there are no checkpoints."""


def advise(
    model: nn.Module,
    train_data: Any,
    *,
    density: float = 0.05,
    test_data: Any = None,
    checkpoints: Mapping[str, Any] | None = None,
    retrain_all: bool = False,
    method: str = "uniform",
    keep: Sequence[str] = (),
    prune: Sequence[str] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    retrain: UserTraining | None = None,
    forward: Forward | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    copies: int = 2,
    max_examples: int = MAX_EXAMPLES,
    size: int | None = None,
    grey: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool | None = None,
) -> Advice:
    """Recommend hotter or colder training of a net before it is pruned.

    The weights of convolutions, linear, attention and recurrent layers are pruned by magnitude,
    except in the layer that separates the classes. The model and the state of all random number
    generators stay unchanged.

    Args:
        model: module from inputs [batch, ...] to outputs [batch, classes], or [batch, positions,
            classes] for labels [batch, positions]; compiled and parallel ones are unwrapped.
            Outputs may also have such a tensor named ``logits``.
        train_data: a DataLoader or a Dataset of pairs (inputs, label) or of dictionaries with
            "labels", two tensors or arrays (inputs, labels), a pair of training and test data, or
            the path of a folder of images ``train/CLASS/IMAGE`` and optionally
            ``test/CLASS/IMAGE`` (or ``val``, ``valid``).
        density: fraction of the weights to keep, in (0, 1].
        test_data: like ``train_data``. Without it, checkpoints are compared by CKA (Algorithm 2.1),
            if this can be trusted.
        checkpoints: candidates by name: state_dicts, or paths of their files. None: the model.
        retrain_all: whether every checkpoint is pruned and retrained, and the lowest test error
            chosen. False: only if the copies of the best dense net are poorly connected (Algorithm
            2). It pays with a complete retraining by your own recipe.
        method: "uniform" prunes to the density in each layer (UniformMP, Section 2.3), "global"
            over all layers together.
        keep: names or patterns (``stem.*``) of layers that stay dense.
        prune: names or patterns of the layers to prune; None: all but the classifier.
        epochs, batch_size, optimizer, lr, weight_decay: retraining. By default it makes about 500
            steps (from 2 to 20 epochs) in batches of 32 examples, or fewer if there are few
            examples, by SGD with momentum if the net has batch norm, otherwise by Adam, at the
            largest rate that is good in a range test.
        retrain: function ``retrain(net, seed)`` that trains a pruned net in place, in an order of
            the examples that depends on the seed; pruned weights stay zero. None: as above.
        forward: function ``forward(net, inputs)`` that returns the outputs, for nets that are
            called in another way; inputs are a dictionary if examples have several. None: the net
            is called with the inputs.
        loss: function ``loss(outputs, labels)`` that returns a scalar; None: cross-entropy.
        copies: number of copies to retrain, 2 or more; more copies reduce noise.
        max_examples: examples of a split to draw at most.
        size: height and width to which images of a folder are scaled; None: all have one size.
        grey: whether images of a folder have one channel; None: as the net's first convolution.
        mean, std: of the pixels of a folder's images, in [0, 1], one number or one of each
            channel, for the normalization; None: those of its training images.
        seed: of the draw, the order of the data in retraining, and dropout.
        device: cpu, cuda, cuda:N, or auto for a GPU if there is one.
        progress: whether to show a forecast of the time and a progress bar; None: in a notebook,
            and if standard error is a terminal.

    Raises:
        ThreeRegimeError: an argument, the net or the data cannot be used.
    """
    start = time.monotonic()
    _check_options(density, copies, max_examples, checkpoints, method, size)
    resolved = _resolve_device(device)
    with (
        # Called inside no_grad or inference_mode, too; and what is drawn there can be trained on.
        torch.inference_mode(False),
        torch.enable_grad(),
        random_state_kept(seed),
        compute_settings(resolved, spare_threads()),
    ):
        images = {"grey": grey, "size": size, "mean": mean, "std": std}
        splits = _draw_splits(model, train_data, test_data, max_examples, seed, images)
        net, splits = inspect_net(
            model,
            splits,
            forward=forward,
            keep=_names(keep),
            only=None if prune is None else _names(prune),
            check_weights=checkpoints is None,
        )
        states = load_states(net, checkpoints) if checkpoints else {OWN: state_of(net.module)}
        task = TensorTask("the given data", *splits, net.classes, loss)
        fits = not retrain_all or (len(states) > 1 and task.test is not None)
        require(fits, "retrain_all", True, "give test data and two or more checkpoints")
        # Enough have to remain: a few examples show no barrier.
        enough = (1 - HELD_OUT) * task.count >= MIN_EXAMPLES
        task, held_out = task.hold_out(HELD_OUT) if enough else (task, None)
        recipe = default_retraining(
            task.count, net.batch_norm, epochs, batch_size, optimizer, lr, weight_decay
        )
        settings = (density, recipe, copies, seed)
        with progress_bar(progress) as bar:
            trials = LiveTrials(
                net,
                states,
                task.to(resolved),
                *settings,
                bar,
                method=method,
                training=retrain,
                held_out=held_out.to(resolved) if held_out else None,
                retrain_all=retrain_all,
                rates=() if lr is not None or retrain else RATES[recipe.optimizer],
            )
            announce(trials)
            decision = _apply_rule(trials)
        return _make_advice(trials, decision, start)


def _check_options(
    density: float, copies: int, max_examples: int, checkpoints: Any, method: str, size: int | None
) -> None:
    """Refuse values that are not allowed, before anything is computed."""
    require(0 < density <= 1, "density", density, "a fraction in (0, 1]")
    require(copies >= 2, "copies", copies, "2 or more, since LMC and CKA compare two")
    require(max_examples >= 2, "max_examples", max_examples, "2 or more examples")
    require(checkpoints is None or len(checkpoints) > 0, "checkpoints", {}, "one or more")
    require(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
    require(size is None or 1 <= size <= MAX_SIDE, "size", size, f"from 1 to {MAX_SIDE} pixels")


def _names(names: Sequence[str] | str) -> list[str]:
    """Return names as a list; one may be given as a text."""
    return [names] if isinstance(names, str) else list(names)


def _resolve_device(name: str) -> torch.device:
    """Return a device with its index, e.g. cuda:0 for cuda."""
    return torch.zeros(1, device=resolve_device(name)).device


def _draw_splits(
    model: nn.Module,
    train_data: Any,
    test_data: Any,
    max_examples: int,
    seed: int,
    images: dict[str, Any],
) -> Splits:
    """Draw examples of both splits at random; a folder, or a pair of data, may hold both.

    ``images`` holds the options of :func:`load_folder`.
    """
    if test_data is None:
        train_data, test_data = split_pair(train_data)
    paths = [isinstance(data, str | Path) for data in (train_data, test_data)]
    if paths == [False, True]:
        raise ThreeRegimeError(
            f"test data = {str(test_data)!r} is a folder, but the training data are not: give both "
            "in one form, so that they are normalized alike"
        )
    train, test = train_data, None
    if paths[0]:
        images["grey"] = is_grey(model) if images["grey"] is None else images["grey"]
        test_path = _folder(test_data) if paths[1] else None
        train, test = load_folder(_folder(train_data), max_examples, seed, **images, test=test_path)
    train = draw_split(train, max_examples, seed, "training")
    if test_data is None or paths[1]:
        return train, test
    return train, draw_split(test_data, max_examples, seed, "test", train.names)


def _folder(path: str | Path) -> Path:
    return Path(str(path).removeprefix("folder:")).expanduser()


def _apply_rule(trials: LiveTrials) -> Decision[str]:
    """Apply Algorithm 1 to a single candidate, and Algorithm 2, 2.1 or grid search to several."""
    epochs = trials.retraining_epochs
    if len(trials.candidates) == 1:
        (candidate,) = trials.candidates
        if np.isnan(trials.dense_error(candidate)):
            raise ThreeRegimeError(f"{candidate} has diverged: take an earlier state of it")
        return tune(trials, candidate, epochs=epochs)
    if trials.retrain_all:
        return grid_search(trials, epochs)
    if trials.task.test is not None:
        return select_by_error(trials, epochs=epochs)
    return _select_without_test_data(trials, epochs)


def _select_without_test_data(trials: LiveTrials, epochs: int) -> Decision[str]:
    """Apply Algorithm 2.1, and retrain the net that is fitted least: it shows what can be learned.

    :func:`find_known_by_heart` then tells whether the choice can be trusted.
    """
    decision = select_by_similarity(trials, epochs=epochs)
    finite = [name for name in trials.candidates if np.isfinite(trials.dense_error(name))]
    least = max(finite, key=trials.dense_error)
    if least not in trials.evidence:
        trials.retrain(least, epochs)
    return decision


def _make_advice(trials: LiveTrials, decision: Decision[str], start: float) -> Advice:
    """Return the answer to a decision; ``start`` is the monotonic time of the question."""
    chosen, recipe, task, net = decision.chosen, trials.recipe, trials.task, trials.net
    evidence = _evidence(trials, chosen)
    findings = _findings(trials, chosen)
    calibration = load_calibration(task.test is None)
    judgement = judge(
        evidence,
        trials.dense[chosen],
        trials.density,
        findings,
        calibration,
        _tried(trials, chosen),
    )
    return Advice(
        regime=judgement.regime,
        turn=judgement.turn,
        reason=judgement.reason,
        probabilities=judgement.probabilities,
        basis=judgement.basis,
        findings=tuple(findings),
        notes=net.notes,
        chosen=chosen,
        rule=decision.rule if len(trials.candidates) > 1 else "",
        density=trials.density,
        evidence=dict(trials.evidence),
        dense=dict(trials.dense),
        retraining={
            **{name: getattr(recipe, name) for name in RETRAINING_FIELDS},
            "copies": trials.copies,
            "seed": trials.seed,
            "function": getattr(trials.training, "__name__", "your function")
            if trials.training
            else "",
        },
        pruned={
            "weights": net.weights,
            "layers": len(net.prunable),
            "classifier": net.classifier,
            "kinds": net.kinds,
            "method": trials.method,
        },
        examples={
            "train": task.count,
            "train_found": task.train.available,
            "test": None if task.test is None else len(task.test.targets),
            "test_found": None if task.test is None else task.test.available,
            "held_out": _held_out_count(trials),
        },
        cost=Cost(
            epochs=trials.steps // max(1, task.count // recipe.batch_size),
            steps=trials.steps,
            seconds=time.monotonic() - start,
            device=str(task.train.inputs.device),
        ),
    )


def _held_out_count(trials: LiveTrials) -> int:
    """Return the number of training examples that the copies are not retrained on."""
    split = trials.held_out.test if trials.held_out else None
    return 0 if split is None else len(split.targets)


def _tried(trials: LiveTrials, chosen: str) -> set[str]:
    """Return the directions of which a checkpoint was retrained that is worse on test data.

    Of two checkpoints of one training, the hotter one fits its training data less.
    """
    if trials.task.test is None:
        return set()
    own, tried = trials.dense[chosen].train, set()
    for name, evidence in trials.evidence.items():
        if sum(evidence.errors) >= sum(trials.evidence[chosen].errors):
            other = trials.dense[name].train
            tried |= {"hotter"} if other > own else {"colder"} if other < own else set()
    return tried


def _findings(trials: LiveTrials, chosen: str) -> list[Finding]:
    """Return the problems of the data, the nets and the copies of the chosen one."""
    found = find_problems(trials.evidence[chosen], trials.dense[chosen], _facts(trials))
    if trials.task.test is None and len(trials.candidates) > 1:
        found += find_known_by_heart(trials.dense, trials.evidence, chosen)
    return sorted(found, key=lambda finding: not finding.blocks)


def _facts(trials: LiveTrials) -> DataFacts:
    """Return what there is to know about the training examples."""
    train = trials.task.train
    known = train.targets[train.targets != IGNORED_TARGET]
    counts = tuple(known.bincount(minlength=trials.net.classes).tolist())
    stream = train.available is None
    return DataFacts(counts, stream, trials.net.module.probabilities)


def _evidence(trials: LiveTrials, chosen: str) -> Evidence:
    """Return the measurements of the chosen candidate's copies, if LMC and CKA are defined."""
    evidence = trials.evidence[chosen]
    if np.isnan(evidence.lmc):
        # Copies of a net that was never trained may diverge at any rate: that is what to name.
        searched = trials.searched and find_dense_problems(trials.dense[chosen], _facts(trials))
        if searched:
            raise ThreeRegimeError(searched[0].text)
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
