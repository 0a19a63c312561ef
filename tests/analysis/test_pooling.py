"""The mean over studies by random effects."""

from __future__ import annotations

import numpy as np
import pytest

from threeregime.analysis.intervals import combine


def test_alike_studies_are_weighted_by_their_precision() -> None:
    one = 0.5 + np.array([-0.1, 0.0, 0.1])
    two = 0.5 + np.array([-0.2, 0.0, 0.2])
    mean = combine([one, two, np.array([np.nan, 0.3])])
    assert mean.studies == 2
    assert mean.effect == pytest.approx(0.5)
    assert mean.spread == 0


def test_the_interval_covers_the_mean_of_differing_studies() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(600):
        truths = 0.4 + 0.2 * rng.standard_normal(12)
        mean = combine([truth + 0.3 * rng.standard_normal(6) for truth in truths])
        covered.append(mean.low <= 0.4 <= mean.high)
    assert 0.92 < np.mean(covered) < 0.98


def test_one_study_has_no_interval_and_none_no_mean() -> None:
    alone = combine([np.array([0.1, 0.3])])
    assert alone.effect == pytest.approx(0.2)
    assert np.isinf(alone.low)
    assert combine([]).studies == 0
