"""The claims of the paper, and verdicts on them from result tables."""

from threeregime.claims.controls import pairs_of_copies, shuffle_temperatures
from threeregime.claims.diagram_statements import figure_2
from threeregime.claims.figure_statements import (
    early_metrics,
    figure_3,
    figure_4,
    figure_5,
    figure_6,
    figure_13,
    figure_14,
    figure_15,
    local_metrics,
    radii,
    selections,
    study_selections,
)
from threeregime.claims.ledger import CLAIMS, Claim
from threeregime.claims.statement import Statement
from threeregime.claims.tables import format_effect, statement_details, statement_table
from threeregime.claims.verdicts import (
    Verdict,
    claims_table,
    counts,
    judge_claims,
    summary,
    verdict_lines,
)

__all__ = [
    "CLAIMS",
    "Claim",
    "Statement",
    "Verdict",
    "claims_table",
    "counts",
    "early_metrics",
    "figure_2",
    "figure_3",
    "figure_4",
    "figure_5",
    "figure_6",
    "figure_13",
    "figure_14",
    "figure_15",
    "format_effect",
    "judge_claims",
    "local_metrics",
    "pairs_of_copies",
    "radii",
    "selections",
    "shuffle_temperatures",
    "statement_details",
    "statement_table",
    "study_selections",
    "summary",
    "verdict_lines",
]
