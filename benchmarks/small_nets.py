"""The small nets of the benchmarks: plain digits, a quarter of the width, seconds a net."""

from __future__ import annotations

from threeregime.experiments import Experiment, load_experiment, load_scale
from threeregime.protocol import Protocol

DIGITS = {
    "data.name": "digits",
    "net.width": 0.25,
    "dense.epochs": 128,
    "dense.milestones": [64, 96],
    "retraining.epochs": 64,
    "retraining.milestones": [32, 48],
    "metrics.early": [],
}
"""How they differ from the scale ``clutter``."""


def protocol(scale: str) -> Protocol:
    """Return the protocol of ``digits``, or of a scale of the experiments."""
    return load_scale("clutter").update(DIGITS) if scale == "digits" else load_scale(scale)


def figure_02() -> Experiment:
    """Return Figure 2 on the digits."""
    return load_experiment("figure_02", "clutter").with_fields(DIGITS)
