"""Advice for any net: train hotter or colder before it is pruned?"""

from threeregime.advice.accuracy import (
    Accuracy,
    accuracy_of,
    answer_known_nets,
    blind_accuracy,
    choice_table,
    choose_known_nets,
    direction_table,
    paper_accuracy,
)
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.advisor import advise

__all__ = [
    "Accuracy",
    "Advice",
    "Cost",
    "accuracy_of",
    "advise",
    "answer_known_nets",
    "blind_accuracy",
    "choice_table",
    "choose_known_nets",
    "direction_table",
    "paper_accuracy",
]
