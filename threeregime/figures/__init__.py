"""Figures of phase diagrams and case studies; the explorer is `threeregime.figures.explorer`."""

from threeregime.figures.case_studies import accuracy, comparison, heating, sam_radius, selection
from threeregime.figures.claim_rows import SIGNS, claims_list
from threeregime.figures.diagrams import (
    barrier,
    beside_paper,
    difference,
    error_curves,
    phase_diagram,
    regime_map,
)
from threeregime.figures.forest_plots import forest, headline_forest
from threeregime.figures.own_methods import reliability, step_times
from threeregime.figures.regime_separation import boundary_search, local_metrics, separation
from threeregime.figures.style import COLOURS, axis_label

__all__ = [
    "COLOURS",
    "SIGNS",
    "accuracy",
    "axis_label",
    "barrier",
    "beside_paper",
    "boundary_search",
    "claims_list",
    "comparison",
    "difference",
    "error_curves",
    "forest",
    "headline_forest",
    "heating",
    "local_metrics",
    "phase_diagram",
    "regime_map",
    "reliability",
    "sam_radius",
    "selection",
    "separation",
    "step_times",
]
