"""The rows of the results tables that a finished fleet leaves."""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from torch import Tensor

from threeregime.fleet import State
from threeregime.measure import PairMetrics
from threeregime.sweep import DenseJob, Place, RetrainJob


def extra(train: bool, epoch: int) -> str:
    """Under which name a fleet's checkpoint keeps the errors [M] after an epoch."""
    return f"extra/{'train' if train else 'test'}_error/{epoch}"


def dense_rows(job: DenseJob, place: Place, errors: State) -> pd.DataFrame:
    """One row a dense net and stop; ``errors`` as a checkpoint keeps them (:func:`extra`)."""
    rows = []
    for stop, (member, seed) in itertools.product(job.stops, enumerate(job.seeds)):
        test, train = (float(errors[extra(t, stop)][member]) for t in (False, True))
        at_stop = job.protocol.replace("dense.stop", stop)
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


def net_rows(job: RetrainJob, place: Place, test: Tensor, train: Tensor) -> pd.DataFrame:
    """One row a retrained net, with its errors [M]; not a number where it diverged."""
    broken = test.isnan() | train.isnan()
    return pd.DataFrame(
        _columns(
            job,
            place,
            member,
            retrain_seed=seed,
            test_error=float(test[member]),
            train_error=float(train[member]),
            diverged=bool(broken[member]),
        )
        for member, (_, seed) in enumerate(job.members)
    )


def pair_rows(job: RetrainJob, place: Place, pairs: PairMetrics) -> pd.DataFrame:
    """One row a pair of copies."""
    return pd.DataFrame(
        _columns(
            job,
            place,
            a,
            seed_a=job.members[a][1],
            seed_b=job.members[b][1],
            lmc=float(pairs.lmc[p]),
            t_star=float(pairs.t_star[p]),
            curve=pairs.curve[p].tolist(),
            cka_softmax=float(pairs.cka_softmax[p]),
            cka_logits=float(pairs.cka_logits[p]),
        )
        for p, (a, b) in enumerate(job.pairs)
    )
