"""Metrics of retrained nets: LMC, CKA and the curvature of the loss."""

from threeregime.metrics.functional import cka, line_points, lmc
from threeregime.metrics.hessian import SAMPLES, Curvature, measure_curvature
from threeregime.metrics.pairs import (
    PairMetrics,
    interpolate,
    line_errors,
    measure_pairs,
    reestimate_batch_norm,
)

__all__ = [
    "SAMPLES",
    "Curvature",
    "PairMetrics",
    "cka",
    "interpolate",
    "line_errors",
    "line_points",
    "lmc",
    "measure_curvature",
    "measure_pairs",
    "reestimate_batch_norm",
]
