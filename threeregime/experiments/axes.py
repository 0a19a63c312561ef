"""Temperatures and loads: the fields that they set, and their words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A temperature or a load.

    Attributes:
        field: path of its field in the protocol.
        kind: int or float.
        label: name in figures and tables.
        phrase: a value in a sentence, with ``{}`` for the value.
        hotter, colder: of a temperature, how to train the dense net at a hotter or colder one.
        colder_up: whether a larger value is a lower temperature, or a lower load.
        percent: whether values are printed in percent.
        unit: unit of a value in tables, in the singular.
    """

    field: str
    kind: type
    label: str
    phrase: str
    hotter: str = "raise the temperature"
    colder: str = "lower the temperature"
    colder_up: bool = True
    percent: bool = False
    unit: str = ""


AXES: dict[str, Axis] = {
    "epochs": Axis(
        "dense.stop",
        int,
        "Training epochs",
        "{} epochs",
        hotter="stop the dense training earlier",
        colder="train the dense net for longer",
    ),
    "batch_size": Axis(
        "dense.batch_size",
        int,
        "Batch size",
        "batch size {}",
        hotter="train the dense net in smaller batches",
        colder="train the dense net in larger ones",
    ),
    "rho": Axis(
        "dense.rho",
        float,
        "SAM's rho",
        "rho = {}",
        hotter="train the dense net with a larger radius of SAM",
        colder="train it with a smaller radius",
        colder_up=False,
    ),
    "density": Axis("pruning.density", float, "Model density", "a density of {}", percent=True),
    "bits": Axis("pruning.bits", int, "Bits a weight", "{} a weight", unit="bit"),
    "width": Axis("net.width", float, "Model width", "width {}"),
    "depth": Axis("net.depth", int, "Model depth", "depth {}"),
}
"""Temperatures and loads by name; add one here to use it in experiments."""


def hot_to_cold(temperature: str, values: Iterable[float]) -> tuple[float, ...]:
    """Return values of a temperature, the hottest first."""
    return tuple(sorted(values, reverse=not AXES[temperature].colder_up))
