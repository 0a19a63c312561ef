"""The TOML file of an experiment, read and checked: `threeregime.experiments.catalogue` says what
is in it.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from threeregime.errors import ThreeRegimeError
from threeregime.experiments.axes import AXES

SCALES = ("smoke", "digits", "mini", "paper")
FEWEST = {"retrain_seeds": 2}
"""Values that a list has at least; others one. LMC and CKA compare two copies."""


def parse_toml(path: Path) -> dict[str, Any]:
    """What a TOML file holds.

    Raises:
        ThreeRegimeError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ThreeRegimeError(f"{path} cannot be read: {error}") from error


def read_experiment(path: Path) -> dict[str, Any]:
    """The file of an experiment, once nothing is missing in it.

    Raises:
        ThreeRegimeError: it cannot be read, or something in it is missing or of the wrong kind.
    """
    table = parse_toml(path)
    for axis in ("temperature", "load"):
        if table.get(axis) not in list(AXES):
            raise ThreeRegimeError(f"{path}: {axis} is to be one of {', '.join(AXES)}")
    if table["temperature"] == table["load"]:
        raise ThreeRegimeError(f"{path}: load is to be another axis than temperature")
    for key in ("title", "source"):
        if key not in table:
            raise ThreeRegimeError(f"{path}: {key} is missing")
    scales = [scale for scale in SCALES if scale in table]
    if not scales:
        raise ThreeRegimeError(f"{path}: one of {', '.join(SCALES)} is missing")
    for scale in scales:
        _check_grid(path, scale, table[scale], table["temperature"], table["load"])
    return table


def _check_grid(path: Path, scale: str, grid: Any, temperature: str, load: str) -> None:
    if not isinstance(grid, dict):
        raise ThreeRegimeError(f"{path}: {scale} is to be a table, [{scale}]")
    for key in (temperature, load, "dense_seeds", "retrain_seeds"):
        if key not in grid:
            raise ThreeRegimeError(f"{path}: {key} is missing in [{scale}]")
        fewest = FEWEST.get(key, 1)
        if not isinstance(grid[key], list) or len(grid[key]) < fewest:
            raise ThreeRegimeError(
                f"{path}: {key} in [{scale}] is to be a list of {fewest} or more"
            )
        if key.endswith("seeds") and not all(type(seed) is int for seed in grid[key]):
            raise ThreeRegimeError(f"{path}: {key} in [{scale}] are to be whole numbers")
