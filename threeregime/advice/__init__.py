"""Advice for any net: train hotter or colder before it is pruned?"""

from threeregime.advice.advice import Advice, Cost
from threeregime.advice.advisor import advise

__all__ = ["Advice", "Cost", "advise"]
