"""Fleets: many nets of one architecture that run as one program."""

from threeregime.fleet.backends import BACKENDS, Backend
from threeregime.fleet.cache import cached
from threeregime.fleet.cuda_graph import WARM_UP, CudaGraphStep
from threeregime.fleet.device import (
    compute_settings,
    device_name,
    free_memory,
    is_out_of_memory,
    resolve_device,
)
from threeregime.fleet.engine import PRECISIONS, Engine, candidate_engines, pick_engine
from threeregime.fleet.fleet import Fleet, State

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "WARM_UP",
    "Backend",
    "CudaGraphStep",
    "Engine",
    "Fleet",
    "State",
    "cached",
    "candidate_engines",
    "compute_settings",
    "device_name",
    "free_memory",
    "is_out_of_memory",
    "pick_engine",
    "resolve_device",
]
