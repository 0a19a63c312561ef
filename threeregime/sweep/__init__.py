"""Sweeps: compute the cells of an experiment, fleet by fleet."""

from threeregime.sweep.compute import estimate_seconds, obtain_results, run_sweep
from threeregime.sweep.jobs import run_job
from threeregime.sweep.plan import JobContext, Plan, is_complete, make_plan, state_folder

__all__ = [
    "JobContext",
    "Plan",
    "estimate_seconds",
    "is_complete",
    "make_plan",
    "obtain_results",
    "run_job",
    "run_sweep",
    "state_folder",
]
