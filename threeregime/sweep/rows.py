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

from threeregime.fleet.device import device_name
from threeregime.fleet.engine import Engine
from threeregime.fleet.fleet import State
from threeregime.metrics.hessian import Curvature
from threeregime.metrics.pairs import PairMetrics
from threeregime.results import NUMBERS, commit
from threeregime.sweep.plan import DenseJob, Job, Place, RetrainJob


def extra(train: bool, epoch: int) -> str:
    """Under which name a fleet's checkpoint keeps the errors [M] after an epoch."""
    return f"extra/{'train' if train else 'test'}_error/{epoch}"


EARLY = ("lmc", "t_star", "cka_softmax", "cka_logits")


def extra_pairs(metric: str, epoch: int) -> str:
    """Under which name a fleet's checkpoint keeps a metric of its pairs [P] after an epoch."""
    return f"pairs/{metric}/{epoch}"


def early_extra(pairs: PairMetrics, epoch: int) -> State:
    """What a fleet's checkpoint keeps of its pairs, measured after an epoch."""
    return {extra_pairs(metric, epoch): getattr(pairs, metric) for metric in EARLY}


def dense_rows(job: DenseJob, place: Place, errors: State) -> pd.DataFrame:
    """One row a dense net and stop; ``errors`` as a checkpoint keeps them (:func:`extra`)."""
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        test, train = (float(errors[extra(t, stop)][member]) for t in (False, True))
        # A run of a given number of steps has no stops but its end.
        whole = job.protocol.dense.iterations is not None
        at_stop = job.protocol if whole else job.protocol.replace("dense.stop", stop)
        rows.append(
            {
                "variant": job.variant,
                **place.experiment.place(at_stop, "data", "net", "dense"),
                "dense_seed": seed,
                "test_error": test,
                "train_error": train,
                "diverged": test != test,  # NaN
                "base": job.base,
                "fleet": job.fleet,
            }
        )
    return pd.DataFrame(rows)


def _columns(job: RetrainJob, place: Place, member: int, **values: Any) -> dict[str, Any]:
    """A row: where the member lies, the given values, and what identifies the cell."""
    unit, axes = job.members[member][0], place.experiment
    return {
        "variant": unit.variant,
        axes.temperature: unit.temperature,
        axes.load: unit.load,
        "dense_seed": unit.dense_seed,
        **values,
        "cell": unit.protocol.hash(),
        "base": axes.base(unit.protocol),
        "fleet": job.fleet,
    }


def _pair_columns(
    job: RetrainJob, place: Place, copies: tuple[int, int], **values: Any
) -> dict[str, Any]:
    """A row of a pair of copies: which two, and the given values."""
    a, b = copies
    seeds = {"seed_a": job.members[a][1], "seed_b": job.members[b][1]}
    return _columns(job, place, a, **seeds, **values)


def net_rows(
    job: RetrainJob,
    place: Place,
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
            place,
            member,
            retrain_seed=seed,
            test_error=float(test[member]),
            train_error=float(train[member]),
            diverged=bool(broken[member]),
            **{f"hessian_{name}": float(values[member]) for name, values in local.items()},
        )
        for member, (_, seed) in enumerate(job.members)
    )


def pair_rows(job: RetrainJob, place: Place, pairs: PairMetrics) -> pd.DataFrame:
    """One row a pair of copies."""
    return pd.DataFrame(
        _pair_columns(
            job,
            place,
            copies,
            lmc=float(pairs.lmc[p]),
            t_star=float(pairs.t_star[p]),
            curve=pairs.curve[p].tolist(),
            cka_softmax=float(pairs.cka_softmax[p]),
            cka_logits=float(pairs.cka_logits[p]),
        )
        for p, copies in enumerate(job.pairs)
    )


def early_rows(job: RetrainJob, place: Place, kept: State) -> pd.DataFrame:
    """One row a pair of copies and early epoch of retraining, the test error the mean of the two's.

    Args:
        job: the fleet.
        place: its experiment.
        kept: errors and metrics as a checkpoint keeps them (:func:`extra`, :func:`extra_pairs`).
    """
    epochs = job.protocol.metrics.early
    return pd.DataFrame(
        _pair_columns(
            job,
            place,
            copies,
            epoch=epoch,
            **{metric: float(kept[extra_pairs(metric, epoch)][p]) for metric in EARLY},
            test_error=float(kept[extra(False, epoch)][list(copies)].mean()),
        )
        for p, copies in enumerate(job.pairs)
        for epoch in epochs
    )


def provenance(
    job: Job,
    place: Place,
    engine: Engine,
    protocols: dict[str, Any],
    seeds: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """All that is recorded with a fleet's tables, as plain values."""
    return {
        "experiment": place.experiment.name,
        "scale": place.experiment.scale,
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
        "device": device_name(place.device),
        "engine": engine.name,
        "seconds": round(seconds, 2),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
