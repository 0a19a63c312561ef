"""Phase diagrams and their analysis: regimes, intervals, transitions and boundaries."""

from threeregime.analysis.bootstrap import Array, mean
from threeregime.analysis.boundary import (
    Boundary,
    describe_boundary,
    follow_boundary,
    follow_boundary_of,
)
from threeregime.analysis.cells import METRIC_FORMATS, METRICS, format_value, holds_no_nets
from threeregime.analysis.intervals import (
    Summary,
    combine,
    contrast,
    held_out_error,
    interval_half_width,
    rank_correlation,
    spearman,
    t_half_width,
)
from threeregime.analysis.phase_diagram import PROBABILITY_COLUMNS, PhaseDiagram
from threeregime.analysis.separation import areas_by_metric, separation_table
from threeregime.analysis.study import NO_NET_SHARE, Study, best_temperature_table
from threeregime.analysis.thresholds import LMC_THRESHOLD, REGIMES, classify, otsu
from threeregime.analysis.transitions import (
    Transition,
    best_temperatures,
    compare_cells,
    diagram_agreement,
    favourable_transitions,
    regime_boundaries,
    regime_label_positions,
    temperature_gains,
)

__all__ = [
    "LMC_THRESHOLD",
    "METRICS",
    "METRIC_FORMATS",
    "NO_NET_SHARE",
    "PROBABILITY_COLUMNS",
    "REGIMES",
    "Array",
    "Boundary",
    "PhaseDiagram",
    "Study",
    "Summary",
    "Transition",
    "areas_by_metric",
    "best_temperature_table",
    "best_temperatures",
    "classify",
    "combine",
    "compare_cells",
    "contrast",
    "describe_boundary",
    "diagram_agreement",
    "favourable_transitions",
    "follow_boundary",
    "follow_boundary_of",
    "format_value",
    "held_out_error",
    "holds_no_nets",
    "interval_half_width",
    "mean",
    "otsu",
    "rank_correlation",
    "regime_boundaries",
    "regime_label_positions",
    "separation_table",
    "spearman",
    "t_half_width",
    "temperature_gains",
]
