"""The claims of the paper: what decides them, and verdicts from result tables."""

from threeregime.claims.agenda import Look, look_lines, missing_looks, run_looks
from threeregime.claims.controls import pairs_of_copies, shuffle_temperatures
from threeregime.claims.decisions import Decision, decide_parts, false_discoveries
from threeregime.claims.estimands import part_effects, part_words
from threeregime.claims.evidence import Evidence
from threeregime.claims.parts import Claim, Part, RegisteredStudy
from threeregime.claims.registration import Registration, load_registration
from threeregime.claims.verdicts import (
    Verdict,
    counts,
    decision_table,
    effects_of,
    headline,
    interval_words,
    judge_claims,
    judge_study,
    registered_study,
    summary,
    verdict_lines,
    verdict_list,
)

__all__ = [
    "Claim",
    "Decision",
    "Evidence",
    "Look",
    "Part",
    "RegisteredStudy",
    "Registration",
    "Verdict",
    "counts",
    "decide_parts",
    "decision_table",
    "effects_of",
    "false_discoveries",
    "headline",
    "interval_words",
    "judge_claims",
    "judge_study",
    "load_registration",
    "look_lines",
    "missing_looks",
    "pairs_of_copies",
    "part_effects",
    "part_words",
    "registered_study",
    "run_looks",
    "shuffle_temperatures",
    "summary",
    "verdict_lines",
    "verdict_list",
]
