"""LMC and CKA as pure functions of tensors.

:mod:`threeregime.metrics.pairs` computes their arguments, the training errors on the line between
two nets and the outputs of both.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor


def line_points(count: int = 11, device: torch.device | str = "cpu") -> Tensor:
    """Return ``count`` equally spaced values of t from 0 to 1: [count], float64."""
    return torch.linspace(0.0, 1.0, count, dtype=torch.float64, device=device)


def lmc(curve: Tensor) -> tuple[Tensor, Tensor]:
    """Return the linear mode connectivity, Equation (1) of the paper.

    Args:
        curve: training errors (fractions) at equally spaced t = 0 .. 1, shape [..., points].

    Returns:
        ``(value, t_star)``, each [...]: the mean error of the two ends minus the error at
        ``t_star``, the t of the largest absolute gap. 0 is well connected, negative a barrier. Both
        are NaN for a curve with NaN (a copy diverged).
    """
    curve = curve.to(torch.float64)
    gap = (curve[..., :1] + curve[..., -1:]) / 2 - curve
    # argmax takes NaN for the largest: such curves are masked below.
    index = gap.abs().argmax(dim=-1, keepdim=True)
    value = gap.gather(-1, index).squeeze(-1)
    t_star = line_points(curve.shape[-1], curve.device)[index].squeeze(-1)
    diverged = curve.isnan().any(dim=-1)
    return value.masked_fill(diverged, torch.nan), t_star.masked_fill(diverged, torch.nan)


def cka(x: Tensor, y: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of outputs, Equation (2) of the paper.

    With few features it is computed as ``|Y'X|^2 / (|X'X| |Y'Y|)``, which equals the paper's trace
    of Gram matrices (Kornblith et al., 2019) at a cost of samples x features^2; with more features
    than samples as that trace.

    Args:
        x: outputs, [..., samples, features].
        y: outputs for the same samples in the same order; features may differ in number.

    Returns:
        Similarity in [0, 1], shape [...]. NaN where outputs are not finite, or constant over the
        samples, which also warns.
    """
    alignment, scale = _alignment(_centre(x), _centre(y))
    constant = scale == 0
    if constant.any():
        warnings.warn(
            "CKA is undefined (NaN): a net's outputs are the same for every sample",
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.where(constant, torch.nan, alignment / scale)


def _alignment(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return |Y'X|^2 and |X'X| |Y'Y|, by Gram matrices where these are smaller: each [...]."""
    norm = torch.linalg.matrix_norm
    if max(x.shape[-1], y.shape[-1]) > x.shape[-2]:
        gram_x, gram_y = x @ x.mT, y @ y.mT
        return (gram_x * gram_y).sum(dim=(-2, -1)), norm(gram_x) * norm(gram_y)
    return norm(x.mT @ y).square(), norm(x.mT @ x) * norm(y.mT @ y)


def _centre(features: Tensor) -> Tensor:
    """Subtract the mean of each feature; differences within rounding become exactly zero."""
    features = features.to(torch.float64)
    centred = features - features.mean(dim=-2, keepdim=True)
    rounding = 1e-12 * features.abs().amax(dim=-2, keepdim=True)
    return torch.where(centred.abs() <= rounding, 0.0, centred)
