"""An experiment: a grid of temperatures and loads under one protocol, with its seeds."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from threeregime.errors import ThreeRegimeError
from threeregime.experiments.axes import AXES
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol

Key = tuple[str, int, tuple[int, ...]]


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work: one cell and dense seed, with all copies retrained from it."""

    variant: str
    temperature: float
    load: float
    protocol: Protocol
    dense_seed: int
    retrain_seeds: tuple[int, ...]

    @property
    def key(self) -> Key:
        """What identifies it: cell hash, dense seed, retraining seeds."""
        return (self.protocol.hash(), self.dense_seed, self.retrain_seeds)


@dataclass(frozen=True)
class Experiment:
    """One experiment at one scale."""

    name: str
    scale: str
    title: str
    source: str
    temperature: str
    load: str
    protocol: Protocol
    temperatures: tuple[float, ...]
    loads: tuple[float, ...]
    dense_seeds: tuple[int, ...]
    retrain_seeds: tuple[int, ...]
    variants: dict[str, dict[str, Any]]
    error: str = "%"
    chosen: frozenset[tuple[float, float]] | None = None
    """Cells (temperature, load) of the grid that are wanted; None: all."""

    def units(self) -> list[Unit]:
        """All pieces of work, so ordered that a part of them shows the whole diagram.

        Every cell at the first dense seed comes before the second, and there the corners of the
        grid first, then what lies halfway between, and so on.
        """
        # A protocol takes longer to make than a unit, and is the same for all seeds.
        cells = self.cells()
        return [replace(cell, dense_seed=seed) for seed in self.dense_seeds for cell in cells]

    def cells(self) -> list[Unit]:
        """The pieces of work at the first dense seed: one a cell, in the order of :meth:`units`."""
        temperature_level, load_level = map(_levels, (self.temperatures, self.loads))
        grid = sorted(
            itertools.product(self.temperatures, self.loads),
            key=lambda cell: max(temperature_level[cell[0]], load_level[cell[1]]),
        )
        return [
            self.unit(variant, temperature, load, self.dense_seeds[0])
            for temperature, load in grid
            for variant in self.variants
            if self.chosen is None or (temperature, load) in self.chosen
        ]

    def unit(self, variant: str, temperature: float, load: float, dense_seed: int) -> Unit:
        """One cell at one dense seed."""
        place = {AXES[self.temperature].field: temperature, AXES[self.load].field: load}
        protocol = validate(self.protocol.update({**self.variants[variant], **place}))
        return Unit(variant, temperature, load, protocol, dense_seed, self.retrain_seeds)

    def base_hash(self, protocol: Protocol, *sections: str) -> str:
        """Hash of a protocol, or of some sections, without its place on the axes.

        All cells of a diagram have the same.
        """
        axes = (self.temperature, self.load)
        return protocol.hash(*sections, without=[AXES[axis].field for axis in axes])

    def coordinates(self, protocol: Protocol, *sections: str) -> dict[str, Any]:
        """Where a protocol lies on those axes that are fields of the given sections."""
        fields = {axis: AXES[axis].field for axis in (self.temperature, self.load)}
        return {a: protocol.get(f) for a, f in fields.items() if f.partition(".")[0] in sections}

    def with_values(self, **values: Sequence[float]) -> Experiment:
        """The same experiment at the given values of its axes alone, on its grid or off it.

        Raises:
            ThreeRegimeError: an axis that this experiment does not have.
        """
        axes = {self.temperature: self.temperatures, self.load: self.loads}
        for axis, chosen in values.items():
            if axis not in axes:
                raise ThreeRegimeError(
                    f"{axis!r} is not an axis of {self.name}: {self.temperature} or {self.load}"
                )
            axes[axis] = tuple(axis_value(axis, v) for v in dict.fromkeys(chosen))
        return replace(self, temperatures=axes[self.temperature], loads=axes[self.load])

    def with_cells(self, chosen: Collection[tuple[float, float]] | None) -> Experiment:
        """The same experiment at some cells (temperature, load) of its grid alone; None: all.

        Unlike with :meth:`only`, dense runs are still stopped wherever the grid wants it, so that
        cells that are chosen later need no new ones.
        """
        return replace(self, chosen=None if chosen is None else frozenset(chosen))

    def variant(self, name: str) -> Experiment:
        """The same experiment with one of its variants alone; empty: the only one.

        Raises:
            ThreeRegimeError: it has no such variant, or several to choose from.
        """
        if not name and len(self.variants) == 1:
            return self
        if name not in self.variants:
            raise ThreeRegimeError(
                f"variant = {name!r} is not allowed: {self.name} has {_or(self.variants)}"
            )
        return replace(self, variants={name: self.variants[name]})

    def data_variants(self) -> list[Experiment]:
        """The same and, where it is of CIFAR-10, the same on its JPEG copy: what may be there."""
        data = self.protocol.data.name
        sources = [data, "cifar10-jpeg"] if data == "cifar10" else [data]
        return [self.with_fields({"data.name": source}) for source in sources]

    def with_seeds(self, dense: int, retrain: int) -> Experiment:
        """The same experiment with so many dense and retraining seeds, counted from its first."""
        if dense < 1 or retrain < 2:
            raise ThreeRegimeError(
                f"seeds = {dense}x{retrain} is not allowed: at least 1 dense and 2 retraining "
                "seeds, since LMC and CKA compare two copies"
            )
        first = (self.dense_seeds[0], self.retrain_seeds[0])
        dense_seeds = tuple(range(first[0], first[0] + dense))
        return replace(
            self, dense_seeds=dense_seeds, retrain_seeds=tuple(range(first[1], first[1] + retrain))
        )

    def with_fields(self, fields: Mapping[str, Any]) -> Experiment:
        """The same experiment with fields of its protocol changed, e.g. {"net.width": 0.5}.

        Raises:
            ThreeRegimeError: a field that is one of its axes.
        """
        for axis in (self.temperature, self.load):
            if AXES[axis].field in fields:
                raise ThreeRegimeError(
                    f"{AXES[axis].field} is an axis of {self.name}: choose its values by "
                    f"--only {axis}=VALUE"
                )
        return replace(self, protocol=validate(self.protocol.update(fields)))


def _or(names: Collection[str]) -> str:
    return " or ".join(names) if any(names) else "none to choose from"


def _levels(values: Sequence[float]) -> dict[float, int]:
    """How often an axis is to be halved until it meets each value; 0 at its ends."""
    levels = {values[0]: 0, values[-1]: 0}
    spans, level = [(0, len(values) - 1)], 0
    while len(levels) < len(values):
        level += 1
        spans = [half for a, b in spans for half in ((a, (a + b) // 2), ((a + b) // 2, b))]
        for _, middle in spans:
            levels.setdefault(values[middle], level)
    return levels


def axis_value(axis: str, value: Any) -> float:
    """Return a value of an axis in the type of its field.

    Raises:
        ThreeRegimeError: not a number, or not a whole one where that is needed.
    """
    kind = AXES[axis].kind
    try:
        made = kind(value)
        if float(made) != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        need = "a whole number" if kind is int else "a number"
        raise ThreeRegimeError(f"{axis} = {value!r} is not allowed: {need}") from None
    return made
