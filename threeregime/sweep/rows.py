"""Rows of the results tables of a finished fleet."""

from __future__ import annotations

import itertools
import json
import platform
import time
from importlib import metadata
from typing import Any

import numpy
import pandas as pd
import torch
from torch import Tensor

from threeregime._version import version
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import Engine, device_name
from threeregime.metrics import Curvature, PairMetrics
from threeregime.results import NUMBERS
from threeregime.results.provenance import Record, check_record, commit
from threeregime.sweep.checkpoints import EARLY_METRICS, EpochMeasurements
from threeregime.sweep.plan import DenseJob, Job, JobContext, RetrainJob


def dense_rows(job: DenseJob, context: JobContext, measurements: EpochMeasurements) -> pd.DataFrame:
    """Return one row per dense net and stop."""
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        test = float(measurements.test_error[stop][member])
        train = float(measurements.train_error[stop][member])
        # The only stop of a run with a given number of steps is its end.
        whole = job.protocol.dense.iterations is not None
        protocol = job.protocol if whole else job.protocol.replace("dense.stop", stop)
        rows.append(
            {
                "variant": job.variant,
                **context.experiment.coordinates(protocol, "data", "net", "dense"),
                "dense_seed": seed,
                "test_error": test,
                "train_error": train,
                "diverged": test != test,  # NaN
                "base": job.base,
                "fleet": job.fleet,
            }
        )
    return pd.DataFrame(rows)


def _row(job: RetrainJob, context: JobContext, member: int, **values: Any) -> dict[str, Any]:
    """Return a row of a member: the place of its cell, the values, and the cell's identity."""
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


def _pair_row(
    job: RetrainJob, context: JobContext, copies: tuple[int, int], **values: Any
) -> dict[str, Any]:
    """Return a row of a pair of copies."""
    a, b = copies
    seeds = {"seed_a": job.members[a][1], "seed_b": job.members[b][1]}
    return _row(job, context, a, **seeds, **values)


def net_rows(
    job: RetrainJob,
    context: JobContext,
    test: Tensor,
    train: Tensor,
    curvature: Curvature | None = None,
) -> pd.DataFrame:
    """Return one row per retrained net, with its errors [M], NaN if it diverged.

    The curvature, if any, adds columns ``hessian_trace`` and ``hessian_top``.
    """
    diverged = test.isnan() | train.isnan()
    hessian = {} if curvature is None else vars(curvature)
    return pd.DataFrame(
        _row(
            job,
            context,
            member,
            retrain_seed=seed,
            test_error=float(test[member]),
            train_error=float(train[member]),
            diverged=bool(diverged[member]),
            **{f"hessian_{name}": float(values[member]) for name, values in hessian.items()},
        )
        for member, (_, seed) in enumerate(job.members)
    )


def pair_rows(job: RetrainJob, context: JobContext, pairs: PairMetrics) -> pd.DataFrame:
    """Return one row per pair of copies."""
    return pd.DataFrame(
        _pair_row(
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


def early_rows(
    job: RetrainJob, context: JobContext, measurements: EpochMeasurements
) -> pd.DataFrame:
    """Return one row per pair of copies and early epoch, with the pair's mean test error."""
    return pd.DataFrame(
        _pair_row(
            job,
            context,
            copies,
            epoch=epoch,
            **{metric: float(measurements.pairs[epoch][metric][p]) for metric in EARLY_METRICS},
            test_error=float(measurements.test_error[epoch][list(copies)].mean()),
        )
        for p, copies in enumerate(job.pairs)
        for epoch in job.protocol.metrics.early
    )


def provenance(
    job: Job, context: JobContext, engine: Engine, protocols: dict[str, Any], seeds: dict[str, Any]
) -> Record:
    """Return the record of origin of a fleet's tables, before the fleet is trained.

    Raises:
        ThreeRegimeError: tables with this record could not be read.
    """
    record = {
        "experiment": context.experiment.name,
        "scale": context.experiment.scale,
        "fleet": job.fleet,
        "nets": job.nets,
        "protocols": protocols,
        "seeds": seeds,
        "numbers": NUMBERS,
        "commit": commit(),
        "versions": {
            "threeregime": version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": metadata.version("torchvision"),
            "numpy": numpy.__version__,
        },
        "device": device_name(context.device),
        "engine": engine.name,
    }
    try:
        check_record(json.loads(json.dumps(record)))
    except (TypeError, ValueError) as error:
        raise ThreeRegimeError(f"tables of {context.folder} cannot be written: {error}") from None
    return record


def completed(record: Record, seconds: float) -> Record:
    """Return a record of origin with the duration of a fleet that is finished now."""
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {**record, "seconds": round(seconds, 2), "created": created}
