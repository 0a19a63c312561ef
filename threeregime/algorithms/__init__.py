"""The paper's algorithms, on live nets and on finished tables."""

from threeregime.algorithms.accuracy import (
    accuracy_by_seed,
    accuracy_table,
    confusion_table,
    costliest_mistakes,
    heating_outcomes,
)
from threeregime.algorithms.replay import (
    Replay,
    regret_table,
    replay_rules,
    replays,
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
    "Trials",
    "accuracy_by_seed",
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
    "summarize_rules",
    "tune",
]
