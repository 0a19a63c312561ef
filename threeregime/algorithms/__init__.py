"""The paper's algorithms, on live nets and on result tables."""

from threeregime.algorithms.accuracy import (
    accuracy_by_seed,
    accuracy_change,
    accuracy_table,
    confusion_table,
    costliest_mistakes,
    heating_outcomes,
)
from threeregime.algorithms.replay import (
    Replay,
    Rule,
    regret_table,
    replay_rules,
    replays,
    selection_rules,
    summarize_rules,
)
from threeregime.algorithms.selection import (
    EARLY_EPOCHS,
    Decision,
    Measurement,
    Trials,
    grid_search,
    select_best_dense,
    select_by_error,
    select_by_similarity,
    select_rho,
    tune,
)

__all__ = [
    "EARLY_EPOCHS",
    "Decision",
    "Measurement",
    "Replay",
    "Rule",
    "Trials",
    "accuracy_by_seed",
    "accuracy_change",
    "accuracy_table",
    "confusion_table",
    "costliest_mistakes",
    "grid_search",
    "heating_outcomes",
    "regret_table",
    "replay_rules",
    "replays",
    "select_best_dense",
    "select_by_error",
    "select_by_similarity",
    "select_rho",
    "selection_rules",
    "summarize_rules",
    "tune",
]
