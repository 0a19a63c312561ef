"""LMC and CKA of pairs of retrained copies: the pairs of a fleet are a fleet too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from threeregime.data import Task
from threeregime.fleet import Fleet, State, compute_settings
from threeregime.metrics.functional import cka, line_points, lmc
from threeregime.training import evaluate_errors, evaluate_outputs

STATISTICS_BATCH = 256


@dataclass(frozen=True)
class PairMetrics:
    """What is measured on P pairs: tensors [P], ``curve`` (training errors) [P, points]."""

    lmc: Tensor
    t_star: Tensor
    curve: Tensor
    cka_softmax: Tensor
    cka_logits: Tensor


@torch.no_grad()
def reestimate_batch_norm(fleet: Fleet, data: Task) -> None:
    """Set every batch norm's statistics to those of the un-augmented training set.

    The statistics of an interpolated net are not the interpolated statistics. Batches are of
    nearly equal size and weigh by it; each layer sees batch-normalised inputs (scripts).
    """
    norms = fleet.batch_norms()
    if not norms:
        return
    kept = [norm.momentum for norm in norms]
    seen = 0
    with fleet.mode(training=True):
        for inputs in data.input_batches(STATISTICS_BATCH, fleet.dtype):
            seen += len(inputs)
            for norm in norms:
                norm.momentum = len(inputs) / seen
            fleet.logits(fleet.broadcast(inputs))
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def interpolate(a: State, b: State, t: float) -> State:
    """States on the line from ``a`` (t = 0) to ``b`` (t = 1), matched by name.

    Both ends are exactly the copies themselves. What is the same in both stays as it is, be it of
    whole numbers or infinite, as constants of a net may be.
    """
    return {
        name: a[name] if torch.equal(a[name], b[name]) else torch.lerp(a[name], b[name], t)
        for name in a
    }


def line_errors(fleet: Fleet, a: State, b: State, data: Task, points: int) -> Tensor:
    """Training error along the line between pairs of nets of ``fleet``'s kind: [P, points].

    Statistics of batch norm are re-estimated at every point, both ends included.
    """
    between = fleet.with_state(a)
    curve = []
    for t in line_points(points).tolist():
        between.load(interpolate(a, b, t))
        reestimate_batch_norm(between, data)
        curve.append(evaluate_errors(between, data, train=True))
    return torch.stack(curve, dim=1)


def measure_pairs(
    fleet: Fleet,
    pairs: Sequence[tuple[int, int]],
    data: Task,
    points: int = 11,
    samples: int = 6464,
    threads: int | None = 1,
) -> PairMetrics:
    """LMC (Equation 1) and CKA (Equation 2) of pairs of members of one fleet.

    Args:
        fleet: the retrained nets.
        pairs: members to compare, (i, j).
        data: the training set that errors, statistics and outputs are taken on.
        points: number of points on the line.
        samples: number of training examples for CKA, or of places in sentences.
        threads: of PyTorch on a CPU; None leaves them.

    Returns:
        float64 tensors on the CPU. Pairs with a diverged member are NaN throughout.
    """
    left, right = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    state = fleet.state()
    a, b = ({n: t[side.to(t.device)] for n, t in state.items()} for side in (left, right))
    with compute_settings(fleet.device, threads):
        curve = line_errors(fleet, a, b, data, points).cpu()
        logits = evaluate_outputs(fleet, data, samples).cpu()
    value, t_star = lmc(curve)
    similarity = {
        kind: cka(features[left], features[right])
        for kind, features in (("softmax", logits.softmax(dim=-1)), ("logits", logits))
    }
    return PairMetrics(value, t_star, curve, similarity["softmax"], similarity["logits"])
