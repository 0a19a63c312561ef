"""Fleets: many nets of one architecture that run as one program."""

from threeregime.fleet.backends import BACKENDS, Backend, PlannedPass
from threeregime.fleet.cache import cached
from threeregime.fleet.cuda_graph import WARM_UP, CudaGraphStep
from threeregime.fleet.device import (
    compute_settings,
    device_name,
    free_memory,
    is_out_of_memory,
    random_state_kept,
    resolve_device,
    spare_threads,
)
from threeregime.fleet.engine import GPU_ENGINES, PRECISIONS, Engine, cpu_engine, pick_gpu_engine
from threeregime.fleet.fleet import Fleet, State

__all__ = [
    "BACKENDS",
    "GPU_ENGINES",
    "PRECISIONS",
    "WARM_UP",
    "Backend",
    "CudaGraphStep",
    "Engine",
    "Fleet",
    "PlannedPass",
    "State",
    "cached",
    "compute_settings",
    "cpu_engine",
    "device_name",
    "free_memory",
    "is_out_of_memory",
    "pick_gpu_engine",
    "random_state_kept",
    "resolve_device",
    "spare_threads",
]
