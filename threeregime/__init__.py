"""The executable companion to A Three-regime Model of Network Pruning (Zhou et al., ICML 2023).

Everything here is imported when it is first asked for, since PyTorch takes seconds. What is here
is the public interface; each room, such as ``threeregime.metrics``, has a wider one.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threeregime.advice import Advice, advise
    from threeregime.algorithms import select_by_error, select_by_similarity, select_rho, tune
    from threeregime.analysis import PhaseDiagram, Study
    from threeregime.data import load_task, stream_seed
    from threeregime.errors import ThreeRegimeError
    from threeregime.experiments import Experiment, list_experiments, load_experiment, load_scale
    from threeregime.fleet import Fleet, cpu_engine
    from threeregime.metrics import (
        cka,
        interpolate,
        line_errors,
        line_points,
        lmc,
        measure_pairs,
        reestimate_batch_norm,
    )
    from threeregime.models import net_builder
    from threeregime.protocol import Protocol
    from threeregime.pruning import prune_masks
    from threeregime.results import Results, load_results
    from threeregime.training import Callback, evaluate_errors, train

_ROOMS = {
    "advice": ("Advice", "advise"),
    "algorithms": ("select_by_error", "select_by_similarity", "select_rho", "tune"),
    "analysis": ("PhaseDiagram", "Study"),
    "data": ("load_task", "stream_seed"),
    "errors": ("ThreeRegimeError",),
    "experiments": ("Experiment", "list_experiments", "load_experiment", "load_scale"),
    "fleet": ("Fleet", "cpu_engine"),
    "metrics": (
        "cka",
        "interpolate",
        "line_errors",
        "line_points",
        "lmc",
        "measure_pairs",
        "reestimate_batch_norm",
    ),
    "models": ("net_builder",),
    "protocol": ("Protocol",),
    "pruning": ("prune_masks",),
    "results": ("Results", "load_results"),
    "training": ("Callback", "evaluate_errors", "train"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Advice",
    "Callback",
    "Experiment",
    "Fleet",
    "PhaseDiagram",
    "Protocol",
    "Results",
    "Study",
    "ThreeRegimeError",
    "advise",
    "cka",
    "cpu_engine",
    "evaluate_errors",
    "interpolate",
    "line_errors",
    "line_points",
    "list_experiments",
    "lmc",
    "load_experiment",
    "load_results",
    "load_scale",
    "load_task",
    "measure_pairs",
    "net_builder",
    "prune_masks",
    "reestimate_batch_norm",
    "select_by_error",
    "select_by_similarity",
    "select_rho",
    "stream_seed",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a public name, or the version, when it is first asked for."""
    if name == "__version__":
        from threeregime._version import version

        return version()
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
