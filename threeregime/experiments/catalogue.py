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

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from threeregime._fields import parse_toml, require, shorten
from threeregime._paths import PROTOCOLS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments.axes import AXES
from threeregime.experiments.experiment import Experiment, axis_value
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol

SCALES = ("smoke", "clutter", "mini", "paper")
MIN_LENGTHS = {"retrain_seeds": 2}
"""Least length of a list if it is not 1: LMC and CKA compare two copies."""
TEXTS = ("title", "source", "error")
MAX_FILE_BYTES = 1 << 20
"""Largest file that is read as an experiment: no such file is as long."""


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
    experiment = Experiment(
        name=name,
        scale=scale,
        title=table["title"],
        source=table["source"],
        temperature=temperature,
        load=load,
        protocol=load_scale(scale),
        temperatures=tuple(axis_value(temperature, v) for v in grid[temperature]),
        loads=tuple(axis_value(load, v) for v in grid[load]),
        dense_seeds=tuple(grid["dense_seeds"]),
        retrain_seeds=tuple(grid["retrain_seeds"]),
        variants={"": {}},
        error=table.get("error", "%"),
    )
    # The same way as --set, which allows the same fields and values.
    experiment = experiment.with_fields({**table.get("set", {}), **grid.get("set", {})})
    return replace(experiment, variants=grid.get("variants", {"": {}}))


def _parse_toml(path: Path) -> dict[str, Any]:
    try:
        # A named pipe, or a device without an end, would be read for ever.
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError("it is longer than any experiment")
        # Some editors of Windows begin a file with a mark.
        return parse_toml(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise ThreeRegimeError(f"{path} cannot be read: {error}") from error


def _read_experiment(path: Path) -> dict[str, Any]:
    """Return the content of an experiment's file.

    Raises:
        ThreeRegimeError: the file cannot be read, its name cannot be that of a folder, or an entry
            is missing, unknown or of the wrong type.
    """

    def check(ok: bool, problem: str) -> None:
        if not ok:
            raise ThreeRegimeError(f"{path}: {problem}")

    # The tables lie in a folder of the file's name.
    usable = path.stem.isprintable() and not path.stem.startswith(".")
    check(usable, "the name of the file must not begin with a dot or have control characters")
    table = _parse_toml(path)
    for axis in ("temperature", "load"):
        check(table.get(axis) in list(AXES), f"{axis} must be one of {', '.join(AXES)}")
    check(table["temperature"] != table["load"], "load must be another axis than temperature")
    for key in ("title", "source"):
        check(key in table, f"{key} is missing")
    for key in TEXTS:
        text = table.get(key, "")
        one_line = isinstance(text, str) and text.isprintable()
        check(one_line, f"{key} = {shorten(text)} is not allowed: a text of one line")
    known = ("temperature", "load", *TEXTS, "set", *SCALES)
    _check_keys(table, known, "the file", check)
    _check_set(table, "the file", check)
    scales = [scale for scale in SCALES if scale in table]
    check(bool(scales), f"one of {', '.join(SCALES)} is missing")
    for scale in scales:
        check(isinstance(table[scale], dict), f"{scale} must be a table, [{scale}]")
        _check_grid(table[scale], (table["temperature"], table["load"]), f"[{scale}]", check)
    return table


Check = Callable[[bool, str], None]
"""Refuses a file with a problem in words, unless a condition holds."""


def _check_grid(grid: dict[str, Any], axes: tuple[str, str], place: str, check: Check) -> None:
    """Check the entries of one scale of an experiment."""
    lists = (*axes, "dense_seeds", "retrain_seeds")
    for key in lists:
        check(key in grid, f"{key} is missing in {place}")
        values, length = grid[key], MIN_LENGTHS.get(key, 1)
        complete = isinstance(values, list) and len(values) >= length
        check(complete, f"{key} in {place} must be a list of {length} or more")
        whole = not key.endswith("seeds") or all(type(seed) is int for seed in values)
        check(whole, f"{key} in {place} must be whole numbers")
    _check_keys(grid, (*lists, "set", "variants"), place, check)
    _check_set(grid, place, check)
    variants = grid.get("variants", {"": {}})
    named = isinstance(variants, dict) and variants
    check(bool(named), f"variants in {place} must be a table with an entry for each variant")
    for name, fields in variants.items():
        check(name.isprintable(), f"the variant {name!r} in {place} must have a name of one line")
        check(isinstance(fields, dict), f"variants.{name} in {place} must be a table of fields")


def _check_keys(table: dict[str, Any], known: Sequence[str], place: str, check: Check) -> None:
    for key in table:
        check(key in known, f"{shorten(key)} is not known in {place}: one of {', '.join(known)}")


def _check_set(table: dict[str, Any], place: str, check: Check) -> None:
    ok = isinstance(table.get("set", {}), dict)
    check(ok, f'set in {place} must be a table of fields, e.g. "net.width" = 0.5')
