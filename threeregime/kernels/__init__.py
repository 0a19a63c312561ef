"""Compiled kernels: the pass of a fleet through a net, as one list of operations for this CPU."""

from threeregime.kernels.library import (
    compile_library,
    find_compiler,
    load_library,
    processor_field,
)
from threeregime.kernels.pass_plan import LossGradient, PassPlan, Sgd
from threeregime.kernels.recorder import UnplannedOp, record

__all__ = [
    "LossGradient",
    "PassPlan",
    "Sgd",
    "UnplannedOp",
    "compile_library",
    "find_compiler",
    "load_library",
    "processor_field",
    "record",
]
