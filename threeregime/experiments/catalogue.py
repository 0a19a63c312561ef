"""The experiments: grids of temperatures and loads at several scales, one TOML file each.

``protocols/scales/SCALE.toml`` holds the protocol of a scale, ``protocols/EXPERIMENT.toml`` the
axes of an experiment and their values at each scale. To add an experiment, add such a file there,
or anywhere else; the name of the latter is its path::

    title = "Model depth"
    source = "Figure 15, Appendix C.2"
    temperature = "epochs"  # an entry of AXES, like load
    load = "depth"
    error = "100 - BLEU"  # meaning of 100 times the test error, if not percent (optional)

    [set]  # fields of the protocol that differ from all scales (optional)
    "pruning.density" = 0.05

    [smoke]
    epochs = [2, 4]
    depth = [8, 14]
    dense_seeds = [0, 1]
    retrain_seeds = [0, 1]
    set."net.width" = 0.125  # at this scale only, overrides [set] (optional)
    variants.name = { "dense.lr" = 0.05 }  # one diagram per variant (optional)

Fields are set and checked as by ``threeregime sweep --set``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from threeregime._fields import require
from threeregime._paths import PROTOCOLS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments.axes import AXES
from threeregime.experiments.experiment import Experiment, axis_value
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol

SCALES = ("smoke", "clutter", "mini", "paper")
MIN_LENGTHS = {"retrain_seeds": 2}
"""Least length of a list if it is not 1: LMC and CKA compare two copies."""


def list_experiments() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.toml"))


def list_scales(name: str) -> list[str]:
    """Return the scales of an experiment, smallest first."""
    table = _table(name)
    return [scale for scale in SCALES if scale in table]


def _table(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        return _read_experiment(Path(name))
    if name not in list_experiments():
        raise ThreeRegimeError(
            f"experiment {name!r} is not known: one of {', '.join(list_experiments())}, or a TOML "
            "file"
        )
    return _read_experiment(PROTOCOLS / f"{name}.toml")


def load_scale(scale: str) -> Protocol:
    """Return the protocol of a scale."""
    scales = sorted(path.stem for path in (PROTOCOLS / "scales").glob("*.toml"))
    require(scale in scales, "scale", scale, f"one of {', '.join(scales)}")
    table = _parse_toml(PROTOCOLS / "scales" / f"{scale}.toml")
    table.pop("description")
    return validate(Protocol.from_dict(table))


def load_experiment(name: str, scale: str) -> Experiment:
    """Load an experiment by its name or by the path of its TOML file.

    Raises:
        ThreeRegimeError: unknown experiment or scale, or a value its protocol does not allow.
    """
    table = _table(name)
    scales = [known for known in SCALES if known in table]
    require(scale in scales, "scale", scale, f"{name} has {', '.join(scales)}")
    grid = table[scale]
    temperature, load = table["temperature"], table["load"]
    fields = {**table.get("set", {}), **grid.get("set", {})}
    return Experiment(
        name=name,
        scale=scale,
        title=table["title"],
        source=table["source"],
        temperature=temperature,
        load=load,
        protocol=validate(load_scale(scale).update(fields)),
        temperatures=tuple(axis_value(temperature, v) for v in grid[temperature]),
        loads=tuple(axis_value(load, v) for v in grid[load]),
        dense_seeds=tuple(grid["dense_seeds"]),
        retrain_seeds=tuple(grid["retrain_seeds"]),
        variants=grid.get("variants", {"": {}}),
        error=table.get("error", "%"),
    )


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ThreeRegimeError(f"{path} cannot be read: {error}") from error


def _read_experiment(path: Path) -> dict[str, Any]:
    """Return the content of an experiment's file.

    Raises:
        ThreeRegimeError: the file cannot be read, or an entry is missing or of the wrong type.
    """
    table = _parse_toml(path)

    def check(ok: bool, problem: str) -> None:
        if not ok:
            raise ThreeRegimeError(f"{path}: {problem}")

    for axis in ("temperature", "load"):
        check(table.get(axis) in list(AXES), f"{axis} must be one of {', '.join(AXES)}")
    check(table["temperature"] != table["load"], "load must be another axis than temperature")
    for key in ("title", "source"):
        check(key in table, f"{key} is missing")
    scales = [scale for scale in SCALES if scale in table]
    check(bool(scales), f"one of {', '.join(SCALES)} is missing")
    for scale in scales:
        grid = table[scale]
        check(isinstance(grid, dict), f"{scale} must be a table, [{scale}]")
        for key in (table["temperature"], table["load"], "dense_seeds", "retrain_seeds"):
            check(key in grid, f"{key} is missing in [{scale}]")
            values, length = grid[key], MIN_LENGTHS.get(key, 1)
            complete = isinstance(values, list) and len(values) >= length
            check(complete, f"{key} in [{scale}] must be a list of {length} or more")
            whole = not key.endswith("seeds") or all(type(seed) is int for seed in values)
            check(whole, f"{key} in [{scale}] must be whole numbers")
    return table
