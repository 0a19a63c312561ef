"""Temperatures and loads: what each sets, and how it is spoken of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """A temperature or a load: the field that it sets, its type, and how it is spoken of.

    Attributes:
        field: of the protocol, by its path.
        kind: int or float.
        label: its name in print.
        phrase: of a value in a sentence; ``{}`` stands for the value.
        hotter: of a temperature, what a hotter one asks of whoever trains the dense net.
        colder: likewise.
        colder_up: whether a larger value is a lower temperature, or a lower load.
        percent: whether its fractions are printed in percent.
        unit: written after a value in tables, with an s if it is not one.
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
"""To add a temperature or a load, add an entry."""


def hot_to_cold(temperature: str, values: Iterable[float]) -> tuple[float, ...]:
    """Values of a temperature, the hottest first."""
    return tuple(sorted(values, reverse=not AXES[temperature].colder_up))
