"""An experiment: a grid of temperatures and loads under one protocol, with seeds."""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from threeregime._fields import is_whole, require
from threeregime.errors import ThreeRegimeError
from threeregime.experiments.axes import AXES
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol

Key = tuple[str, int, tuple[int, ...]]

MAX_NETS = 100_000
"""Most nets and pairs of an experiment, which its plan lists one by one. The largest one of the
catalogue has a fiftieth of them."""


@dataclass(frozen=True)
class Unit:
    """The smallest piece of work: the retrained copies of one cell and dense seed."""

    variant: str
    temperature: float
    load: float
    protocol: Protocol
    dense_seed: int
    retrain_seeds: tuple[int, ...]

    @property
    def key(self) -> Key:
        """Identity of the unit: hash of the cell, dense seed, retraining seeds."""
        return (self.protocol.hash(), self.dense_seed, self.retrain_seeds)


@dataclass(frozen=True)
class Experiment:
    """One experiment at one scale.

    Attributes:
        name, scale, title, source: words of its file.
        temperature, load: names of its axes in `AXES`.
        protocol: protocol of all cells, apart from the axes.
        temperatures, loads: values of the axes.
        dense_seeds, retrain_seeds: seeds of the dense runs, and of the copies of each.
        variants: fields to change, by name of the variant; each variant is a diagram.
        error: meaning of 100 times the test error.
        selected: cells (temperature, load) of the grid to compute; None: all.

    Raises:
        ThreeRegimeError: a value twice on an axis or among seeds, a seed that tables cannot hold,
            variants that are the same or set the field of an axis, or more than `MAX_NETS` nets.
    """

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
    selected: frozenset[tuple[float, float]] | None = None

    def __post_init__(self) -> None:
        for axis, values in ((self.temperature, self.temperatures), (self.load, self.loads)):
            _check_distinct(axis, values)
        self._check_size(len(self.dense_seeds), len(self.retrain_seeds))
        for name in ("dense_seeds", "retrain_seeds"):
            for seed in getattr(self, name):
                fits = is_whole(seed) and seed >= 0
                require(fits, name, seed, "whole numbers from 0 to below 2**63")
            _check_distinct(name, getattr(self, name))
        self._check_variants()

    def _check_size(self, dense: int, retrain: int) -> None:
        """Refuse more nets and pairs than a plan can list, by numbers of seeds."""
        cells = len(self.variants) * len(self.temperatures) * len(self.loads)
        # A unit has its nets, and a pair of every two of them.
        nets = cells * dense * (retrain + math.comb(retrain, 2))
        if nets > MAX_NETS:
            raise ThreeRegimeError(
                f"seeds = {dense}x{retrain} is not allowed: with {cells} cells that makes {nets} "
                f"nets and pairs, and at most {MAX_NETS} can be planned"
            )

    def _check_variants(self) -> None:
        """Refuse variants that are the same, since their cells would be, and fields of axes."""
        names: dict[Protocol, str] = {}
        for name, fields in self.variants.items():
            self._refuse_axes(fields)
            other = names.setdefault(self.protocol.update(fields), name)
            if other != name:
                raise ThreeRegimeError(
                    f"the variants {other!r} and {name!r} of {self.name} are the same: change "
                    "fields in one of them, or leave it out"
                )

    def units(self) -> list[Unit]:
        """Return all units, in an order in which the first ones show the whole diagram.

        All cells at the first dense seed come first. Among these, the corners of the grid come
        first, then the cells halfway between them, and so on. Within each of these steps units of
        the same load come together: their masks are alike, and a fleet of them has less to compute.
        """
        # Protocols, which take the time, are the same for all seeds.
        cells = self.cells()
        return [replace(cell, dense_seed=seed) for seed in self.dense_seeds for cell in cells]

    def cells(self) -> list[Unit]:
        """Return the units at the first dense seed, one per cell, in the order of :meth:`units`."""
        temperature_level, load_level = map(_levels, (self.temperatures, self.loads))
        grid = sorted(
            itertools.product(self.loads, self.temperatures),
            key=lambda cell: max(load_level[cell[0]], temperature_level[cell[1]]),
        )
        return [
            self.unit(variant, temperature, load, self.dense_seeds[0])
            for load, temperature in grid
            for variant in self.variants
            if self.selected is None or (temperature, load) in self.selected
        ]

    def unit(self, variant: str, temperature: float, load: float, dense_seed: int) -> Unit:
        """Return one cell at one dense seed."""
        axes = {AXES[self.temperature].field: temperature, AXES[self.load].field: load}
        protocol = validate(self.protocol.update({**self.variants[variant], **axes}))
        return Unit(variant, temperature, load, protocol, dense_seed, self.retrain_seeds)

    def base_hash(self, protocol: Protocol, *sections: str) -> str:
        """Return the hash of a protocol, or of some sections, without the fields of the axes.

        All cells of a diagram share it.
        """
        axes = (self.temperature, self.load)
        return protocol.hash(*sections, without=[AXES[axis].field for axis in axes])

    def coordinates(self, protocol: Protocol, *sections: str) -> dict[str, Any]:
        """Return a protocol's values on those axes that are fields of some sections."""
        fields = {axis: AXES[axis].field for axis in (self.temperature, self.load)}
        return {a: protocol.get(f) for a, f in fields.items() if f.partition(".")[0] in sections}

    def with_values(self, /, **values: Sequence[float]) -> Experiment:
        """Return the experiment with other values of its axes, on its grid or off it.

        Raises:
            ThreeRegimeError: an axis that the experiment does not have.
        """
        axes = {self.temperature: self.temperatures, self.load: self.loads}
        for axis, axis_values in values.items():
            if axis not in axes:
                raise ThreeRegimeError(
                    f"{axis!r} is not an axis of {self.name}: {self.temperature} or {self.load}"
                )
            axes[axis] = tuple(axis_value(axis, v) for v in dict.fromkeys(axis_values))
        return replace(self, temperatures=axes[self.temperature], loads=axes[self.load])

    def with_cells(self, cells: Collection[tuple[float, float]] | None) -> Experiment:
        """Return the experiment with some cells (temperature, load) of its grid; None: all.

        Unlike with :meth:`with_values`, dense runs keep the stops of the whole grid, so that cells
        selected later need no new runs.
        """
        return replace(self, selected=None if cells is None else frozenset(cells))

    def variant(self, name: str) -> Experiment:
        """Return the experiment with one of its variants; an empty name means its only one.

        Raises:
            ThreeRegimeError: no such variant, or no name although there are several.
        """
        if not name and len(self.variants) == 1:
            return self
        names = " or ".join(self.variants) if any(self.variants) else "none to choose from"
        require(name in self.variants, "variant", name, f"{self.name} has {names}")
        return replace(self, variants={name: self.variants[name]})

    def data_variants(self) -> list[Experiment]:
        """Return the experiment and, if it is on CIFAR-10, the same on the JPEG copy."""
        data = self.protocol.data.name
        sources = [data, "cifar10-jpeg"] if data == "cifar10" else [data]
        return [self.with_fields({"data.name": source}) for source in sources]

    def with_seeds(self, dense: int, retrain: int) -> Experiment:
        """Return the experiment with other numbers of seeds, counted from its first ones.

        Raises:
            ThreeRegimeError: no dense seed, or fewer than 2 retraining seeds.
        """
        if dense < 1 or retrain < 2:
            raise ThreeRegimeError(
                f"seeds = {dense}x{retrain} is not allowed: at least 1 dense and 2 retraining "
                "seeds, since LMC and CKA compare two copies"
            )
        self._check_size(dense, retrain)
        starts = ((self.dense_seeds[0], dense), (self.retrain_seeds[0], retrain))
        dense_seeds, retrain_seeds = (tuple(range(first, first + n)) for first, n in starts)
        return replace(self, dense_seeds=dense_seeds, retrain_seeds=retrain_seeds)

    def with_fields(self, fields: Mapping[str, Any]) -> Experiment:
        """Return the experiment with fields of its protocol changed, e.g. {"net.width": 0.5}.

        Raises:
            ThreeRegimeError: the field of an axis, or a value that is not allowed.
        """
        axes = [AXES[axis].field for axis in (self.temperature, self.load)]
        others = {field: value for field, value in fields.items() if field not in axes}
        try:
            protocol = self.protocol.update(others)
        except ThreeRegimeError:
            # Quantization needs some number of bits before the axis has its values.
            protocol = self.protocol.update(fields)
        else:
            self._refuse_axes(fields)
        return replace(self, protocol=validate(protocol))

    def _refuse_axes(self, fields: Mapping[str, Any]) -> None:
        """Refuse fields of axes: the values of the axis would replace theirs."""
        for axis in (self.temperature, self.load):
            if AXES[axis].field in fields:
                raise ThreeRegimeError(
                    f"{AXES[axis].field} is an axis of {self.name}: choose its values by {axis} "
                    f"in its file, or by --only {axis}=VALUE"
                )


def _levels(values: Sequence[float]) -> dict[float, int]:
    """Return after how many halvings of an axis each value is met; 0 at its ends."""
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
        ThreeRegimeError: not a finite number, or not a whole number for an axis of these.
    """
    kind = AXES[axis].kind
    allowed = "a whole number" if kind is int else "a number"
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(is_number and _is_finite(value), axis, value, allowed)
    require(kind is float or int(value) == value, axis, value, allowed)
    number: float = kind(value)
    require(kind is float or is_whole(number), axis, value, allowed)
    return number


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # of an integer beyond the range of floats
        return False


def _check_distinct(name: str, values: Sequence[float]) -> None:
    """Refuse a value that is given twice: its cells, or its nets, would be the same."""
    distinct = len(set(values)) == len(values) > 0
    require(distinct, name, list(values), "one or more values, each once")
