"""The experiments: each a grid of temperatures and loads at several scales, from one TOML file.

``protocols/scales/SCALE.toml`` holds a scale's protocol, ``protocols/EXPERIMENT.toml`` the axes and
the values of each scale it can run at. Adding an experiment is adding one such file, there or
anywhere else; elsewhere its path is its name::

    title = "Model depth"
    source = "Figure 15, Appendix C.2"
    temperature = "epochs"  # an entry of AXES, as load
    load = "depth"
    error = "100 - BLEU"  # what 100 times the test error is, if not percent (optional)

    [set]  # fields of the protocol in which it departs from every scale's (optional)
    "pruning.density" = 0.05

    [smoke]
    epochs = [2, 4]
    depth = [8, 14]
    dense_seeds = [0, 1]
    retrain_seeds = [0, 1]
    set."net.width" = 0.125  # at this scale alone, over the ones above (optional)
    variants.name = { "dense.lr" = 0.05 }  # one diagram each (optional)

Fields are set as by ``threeregime sweep --set``, under the same checks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from threeregime._paths import PROTOCOLS
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import files
from threeregime.experiments.experiment import Experiment, axis_value
from threeregime.experiments.files import SCALES
from threeregime.experiments.validate import validate
from threeregime.protocol import Protocol


def list_experiments() -> list[str]:
    """Names of all experiments."""
    return sorted(path.stem for path in PROTOCOLS.glob("*.toml"))


def list_scales(name: str) -> list[str]:
    """Scales at which an experiment can run, smallest first."""
    table = _table(name)
    return [scale for scale in SCALES if scale in table]


def _table(name: str) -> dict[str, Any]:
    if name.endswith(".toml"):
        return files.read_experiment(Path(name))
    if name not in list_experiments():
        raise ThreeRegimeError(
            f"experiment {name!r} is not known: one of {', '.join(list_experiments())}, or a TOML "
            "file"
        )
    return files.read_experiment(PROTOCOLS / f"{name}.toml")


def load_scale(scale: str) -> Protocol:
    """The protocol of a scale."""
    known = sorted(path.stem for path in (PROTOCOLS / "scales").glob("*.toml"))
    if scale not in known:
        raise ThreeRegimeError(f"scale = {scale!r} is not allowed: one of {', '.join(known)}")
    table = files.parse_toml(PROTOCOLS / "scales" / f"{scale}.toml")
    table.pop("description")
    return validate(Protocol.from_dict(table))


def load_experiment(name: str, scale: str) -> Experiment:
    """Look an experiment up, by its name or by the path of its TOML file.

    Raises:
        ThreeRegimeError: unknown experiment or scale, or a value its protocol does not allow.
    """
    table = _table(name)
    if scale not in list_scales(name):
        raise ThreeRegimeError(
            f"scale = {scale!r} is not allowed: {name} has {', '.join(list_scales(name))}"
        )
    grid = table[scale]
    temperature, load = table["temperature"], table["load"]
    return Experiment(
        name=name,
        scale=scale,
        title=table["title"],
        source=table["source"],
        temperature=temperature,
        load=load,
        protocol=validate(
            load_scale(scale).update({**table.get("set", {}), **grid.get("set", {})})
        ),
        temperatures=tuple(axis_value(temperature, v) for v in grid[temperature]),
        loads=tuple(axis_value(load, v) for v in grid[load]),
        dense_seeds=tuple(grid["dense_seeds"]),
        retrain_seeds=tuple(grid["retrain_seeds"]),
        variants=grid.get("variants", {"": {}}),
        error=table.get("error", "%"),
    )
