"""Magnitude pruning and quantization of the weights of a fleet."""

from threeregime.pruning.magnitude import METHODS, Masks, magnitude_masks, prune_masks
from threeregime.pruning.quantization import CLIPPING, Quantizer, quantize

__all__ = [
    "CLIPPING",
    "METHODS",
    "Masks",
    "Quantizer",
    "magnitude_masks",
    "prune_masks",
    "quantize",
]
