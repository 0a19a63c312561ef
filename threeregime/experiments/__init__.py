"""Experiments: grids of temperatures and loads under a protocol."""

from threeregime.experiments.axes import AXES, Axis, hot_to_cold
from threeregime.experiments.catalogue import (
    list_experiments,
    list_scales,
    load_experiment,
    load_scale,
)
from threeregime.experiments.experiment import Experiment, Key, Unit
from threeregime.experiments.validate import validate

__all__ = [
    "AXES",
    "Axis",
    "Experiment",
    "Key",
    "Unit",
    "hot_to_cold",
    "list_experiments",
    "list_scales",
    "load_experiment",
    "load_scale",
    "validate",
]
