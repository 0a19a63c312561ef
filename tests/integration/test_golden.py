"""Numbers do not change by accident; see `golden`."""

from __future__ import annotations

import copy

import pytest

from tests.helpers import golden
from threeregime.fleet import lanes

TOLERANCE = 1e-4  # for a processor without stored numbers, whose rounding differs


@pytest.mark.parametrize("case", golden.CASES, ids=str)
def test_numbers_are_those_that_are_stored(case: golden.Case) -> None:
    if case.engine == "lanes" and not lanes.available():
        pytest.skip("no C++ compiler")
    stored = golden.read()
    exact = stored.get(golden.processor())
    tolerance = TOLERANCE if exact is None else 0.0
    expected = (exact or next(iter(stored.values())))[str(case)]
    assert not golden.differences(golden.compute(case), expected, tolerance)


def test_a_change_of_one_number_is_seen() -> None:
    expected = next(iter(golden.read().values()))[str(golden.CASES[0])]
    changed = copy.deepcopy(expected)
    changed["pairs"][0]["lmc"] += 2e-4
    changed["nets"].pop()
    lines = golden.differences(changed, expected, TOLERANCE)
    assert [line.split(":")[0] for line in lines] == ["nets", "pairs[0].lmc"]
    assert not golden.differences(expected, expected)
