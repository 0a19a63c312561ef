"""Connectivity and similarity of two retrained copies, as pure functions of numbers.

The functions here know nothing of nets: :mod:`threeregime.metrics.pairs` produces the training
errors
along the line and the outputs that they turn into LMC and CKA.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def line_points(count: int = 11, device: torch.device | str = "cpu") -> Tensor:
    """Return the ``count`` values of t on the line between two copies, ends included: [count]."""
    return torch.linspace(0.0, 1.0, count, dtype=torch.float64, device=device)


def lmc(curve: Tensor) -> tuple[Tensor, Tensor]:
    """Linear mode connectivity, Equation (1) of the paper.

    Args:
        curve: training errors (fractions) at equally spaced t = 0 .. 1, shape [..., points].

    Returns:
        ``(value, t_star)``, each [...]: the mean error of the two ends minus the error at the t of
        the largest absolute gap. 0 is well connected, negative a barrier. A curve with NaN (a copy
        diverged) has value and t_star NaN.
    """
    curve = curve.to(torch.float64)
    gap = (curve[..., :1] + curve[..., -1:]) / 2 - curve
    # argmax would take NaN as the largest: such curves are overwritten below.
    index = gap.abs().argmax(dim=-1, keepdim=True)
    value = gap.gather(-1, index).squeeze(-1)
    t_star = line_points(curve.shape[-1], curve.device)[index].squeeze(-1)
    broken = curve.isnan().any(dim=-1)
    return value.masked_fill(broken, torch.nan), t_star.masked_fill(broken, torch.nan)


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two sets of outputs, Equation (2) of the paper.

    Args:
        x, y: outputs for the same samples in the same order, [..., samples, features]; the two
            may differ in the number of features.

    Returns:
        Similarity in [0, 1], shape [...]. With few features the feature-space form
        ``|Y'X|^2 / (|X'X| |Y'Y|)`` equals the paper's trace of Gram matrices (Kornblith et al.,
        2019) at a cost of samples x features^2; with more features than samples it is that trace.
        NaN where an output is constant over the samples or not finite; the first kind also warns.
    """
    x, y = (_centre(part) for part in (x, y))

    across, scale = _alignment(x, y)
    constant = scale == 0
    if constant.any():
        warnings.warn(
            "CKA is undefined (NaN): a net's outputs are the same for every sample",
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.where(constant, torch.nan, across / scale)


def _alignment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """|Y'X|^2 and |X'X| |Y'Y|, by samples x samples where that is smaller: each [...]."""
    norm = torch.linalg.matrix_norm
    if max(x.shape[-1], y.shape[-1]) > x.shape[-2]:
        gram_x, gram_y = x @ x.mT, y @ y.mT
        return (gram_x * gram_y).sum(dim=(-2, -1)), norm(gram_x) * norm(gram_y)
    return norm(x.mT @ y).square(), norm(x.mT @ x) * norm(y.mT @ y)


def _centre(features: Tensor) -> Tensor:
    """Subtract each feature's mean; what is left of a constant by rounding becomes exactly zero."""
    features = features.to(torch.float64)
    centred = features - features.mean(dim=-2, keepdim=True)
    rounding = 1e-12 * features.abs().amax(dim=-2, keepdim=True)
    return torch.where(centred.abs() <= rounding, 0.0, centred)
