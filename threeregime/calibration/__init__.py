"""Nets whose best temperature is known by brute force, and the directions learned from them."""

from threeregime.calibration.directions import (
    CANNOT_TELL,
    DIRECTIONS,
    Calibration,
    Measures,
    direction,
    load_calibration,
)
from threeregime.calibration.known_nets import KNOWN_NETS, load_known_nets

__all__ = [
    "CANNOT_TELL",
    "DIRECTIONS",
    "KNOWN_NETS",
    "Calibration",
    "Measures",
    "direction",
    "load_calibration",
    "load_known_nets",
]
