"""Training and evaluation of fleets."""

from threeregime.training.evaluation import evaluate_errors, evaluate_outputs
from threeregime.training.loop import Callback, train
from threeregime.training.retraining import (
    RATES,
    default_retraining,
    largest_good_rates,
    range_steps,
)
from threeregime.training.run import TrainingRun

__all__ = [
    "RATES",
    "Callback",
    "TrainingRun",
    "default_retraining",
    "evaluate_errors",
    "evaluate_outputs",
    "largest_good_rates",
    "range_steps",
    "train",
]
