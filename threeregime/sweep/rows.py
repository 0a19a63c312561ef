"""The rows of the results tables that a finished fleet leaves."""

from __future__ import annotations

import itertools
import platform
import time
from importlib import metadata
from typing import Any

import numpy
import pandas as pd
import torch
from torch import Tensor

from threeregime.fleet import Engine, device_name
from threeregime.metrics import Curvature, PairMetrics
from threeregime.results import NUMBERS, commit
from threeregime.sweep.measured import EARLY_METRICS, EpochMeasurements
from threeregime.sweep.plan import DenseJob, Job, JobContext, RetrainJob


def dense_rows(job: DenseJob, context: JobContext, measured: EpochMeasurements) -> pd.DataFrame:
    """Return one row a dense net and stop."""
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        test = float(measured.test_error[stop][member])
        train = float(measured.train_error[stop][member])
        # A run of a given number of steps has no stops but its end.
        whole = job.protocol.dense.iterations is not None
        at_stop = job.protocol if whole else job.protocol.replace("dense.stop", stop)
        rows.append(
            {
                "variant": job.variant,
                **context.experiment.coordinates(at_stop, "data", "net", "dense"),
                "dense_seed": seed,
                "test_error": test,
                "train_error": train,
                "diverged": test != test,  # NaN
                "base": job.base,
                "fleet": job.fleet,
            }
        )
    return pd.DataFrame(rows)


def _columns(job: RetrainJob, context: JobContext, member: int, **values: Any) -> dict[str, Any]:
    """A row: where the member lies, the given values, and what identifies the cell."""
    unit, axes = job.members[member][0], context.experiment
    return {
        "variant": unit.variant,
        axes.temperature: unit.temperature,
        axes.load: unit.load,
        "dense_seed": unit.dense_seed,
        **values,
        "cell": unit.protocol.hash(),
        "base": axes.base_hash(unit.protocol),
        "fleet": job.fleet,
    }


def _pair_columns(
    job: RetrainJob, context: JobContext, copies: tuple[int, int], **values: Any
) -> dict[str, Any]:
    """A row of a pair of copies: which two, and the given values."""
    a, b = copies
    seeds = {"seed_a": job.members[a][1], "seed_b": job.members[b][1]}
    return _columns(job, context, a, **seeds, **values)


def net_rows(
    job: RetrainJob,
    context: JobContext,
    test: Tensor,
    train: Tensor,
    curvature: Curvature | None = None,
) -> pd.DataFrame:
    """One row a retrained net, with its errors [M]; not a number where it diverged.

    Columns ``hessian_trace`` and ``hessian_top`` where the curvature was taken.
    """
    broken = test.isnan() | train.isnan()
    local = {} if curvature is None else vars(curvature)
    return pd.DataFrame(
        _columns(
            job,
            context,
            member,
            retrain_seed=seed,
            test_error=float(test[member]),
            train_error=float(train[member]),
            diverged=bool(broken[member]),
            **{f"hessian_{name}": float(values[member]) for name, values in local.items()},
        )
        for member, (_, seed) in enumerate(job.members)
    )


def pair_rows(job: RetrainJob, context: JobContext, pairs: PairMetrics) -> pd.DataFrame:
    """One row a pair of copies."""
    return pd.DataFrame(
        _pair_columns(
            job,
            context,
            copies,
            lmc=float(pairs.lmc[p]),
            t_star=float(pairs.t_star[p]),
            curve=pairs.curve[p].tolist(),
            cka_softmax=float(pairs.cka_softmax[p]),
            cka_logits=float(pairs.cka_logits[p]),
        )
        for p, copies in enumerate(job.pairs)
    )


def early_rows(job: RetrainJob, context: JobContext, measured: EpochMeasurements) -> pd.DataFrame:
    """Return one row a pair of copies and early epoch; the test error is the mean of the two."""
    return pd.DataFrame(
        _pair_columns(
            job,
            context,
            copies,
            epoch=epoch,
            **{metric: float(measured.pairs[epoch][metric][p]) for metric in EARLY_METRICS},
            test_error=float(measured.test_error[epoch][list(copies)].mean()),
        )
        for p, copies in enumerate(job.pairs)
        for epoch in job.protocol.metrics.early
    )


def provenance(
    job: Job,
    context: JobContext,
    engine: Engine,
    protocols: dict[str, Any],
    seeds: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """All that is recorded with a fleet's tables, as plain values."""
    return {
        "experiment": context.experiment.name,
        "scale": context.experiment.scale,
        "fleet": job.fleet,
        "nets": job.nets,
        "protocols": protocols,
        "seeds": seeds,
        "numbers": NUMBERS,
        "commit": commit(),
        "versions": {
            "threeregime": metadata.version("threeregime"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "numpy": numpy.__version__,
        },
        "device": device_name(context.device),
        "engine": engine.name,
        "seconds": round(seconds, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
