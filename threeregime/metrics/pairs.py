"""LMC and CKA of pairs of nets in a fleet; the nets between all pairs are a fleet too."""

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
    """Metrics of P pairs: tensors [P], and ``curve``, the training errors [P, points]."""

    lmc: Tensor
    t_star: Tensor
    curve: Tensor
    cka_softmax: Tensor
    cka_logits: Tensor


@torch.no_grad()
def reestimate_batch_norm(fleet: Fleet, task: Task) -> None:
    """Set the statistics of batch norm to those of the un-augmented training set.

    An interpolated net needs it. The statistics are means over batches of nearly equal size,
    weighted by it; each layer sees inputs normalised by their batch (scripts).
    """
    if not fleet.batch_norms():
        return
    count = 0
    with fleet.mode(training=True):
        for inputs in task.input_batches(STATISTICS_BATCH, fleet.dtype):
            count += len(inputs)
            with fleet.batch_norm_momentum(len(inputs) / count):
                fleet.logits(fleet.broadcast(inputs))


def interpolate(a: State, b: State, t: float) -> State:
    """Return the state on the line from ``a`` (t = 0) to ``b`` (t = 1), tensor by tensor.

    Both ends are exact. Equal tensors stay as they are, since a net's constants may be integers or
    infinite.
    """
    return {
        name: a[name] if torch.equal(a[name], b[name]) else torch.lerp(a[name], b[name], t)
        for name in a
    }


def line_errors(fleet: Fleet, a: State, b: State, task: Task, points: int) -> Tensor:
    """Return the training errors on the lines between nets of two states: [P, points].

    Statistics of batch norm are re-estimated at every point, both ends included.
    """
    between = fleet.with_state(a)
    between.skip_zeros(a, b)
    curve = []
    for t in line_points(points).tolist():
        between.load(interpolate(a, b, t))
        reestimate_batch_norm(between, task)
        curve.append(evaluate_errors(between, task, train=True))
    return torch.stack(curve, dim=1)


def measure_pairs(
    fleet: Fleet,
    pairs: Sequence[tuple[int, int]],
    task: Task,
    points: int = 11,
    samples: int = 6464,
    threads: int | None = 1,
) -> PairMetrics:
    """Measure LMC (Equation 1) and CKA (Equation 2) of pairs of members of one fleet.

    Args:
        fleet: the retrained nets.
        pairs: indices of the members to compare, (i, j).
        task: the data; its training split is used.
        points: number of points on the line.
        samples: number of training examples for CKA, or of positions in sentences.
        threads: number of PyTorch's threads on a CPU; None leaves it.

    Returns:
        float64 tensors on the CPU, NaN for pairs with a diverged member.
    """
    left, right = torch.tensor(list(pairs)).T
    state = fleet.state()
    a, b = ({n: t[index.to(t.device)] for n, t in state.items()} for index in (left, right))
    with compute_settings(fleet.device, threads):
        curve = line_errors(fleet, a, b, task, points).cpu()
        logits = evaluate_outputs(fleet, task, samples).cpu()
    value, t_star = lmc(curve)
    softmax = logits.softmax(dim=-1)
    cka_softmax, cka_logits = (cka(x[left], x[right]) for x in (softmax, logits))
    return PairMetrics(value, t_star, curve, cka_softmax, cka_logits)
