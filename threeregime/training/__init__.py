"""Training and evaluation of a fleet."""

from threeregime.training.evaluation import evaluate_errors, evaluate_outputs
from threeregime.training.loop import Callback, train
from threeregime.training.run import TrainingRun

__all__ = ["Callback", "TrainingRun", "evaluate_errors", "evaluate_outputs", "train"]
