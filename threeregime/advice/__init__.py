"""Advice for any net: train hotter or colder before it is pruned?"""

from threeregime.advice.accuracy import (
    Accuracy,
    accuracy_of,
    answer_known_nets,
    choice_table,
    choose_known_nets,
    direction_table,
    paper_accuracy,
)
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.advisor import advise
from threeregime.advice.known_nets import load_known_nets

__all__ = [
    "Accuracy",
    "Advice",
    "Cost",
    "accuracy_of",
    "advise",
    "answer_known_nets",
    "choice_table",
    "choose_known_nets",
    "direction_table",
    "load_known_nets",
    "paper_accuracy",
]
