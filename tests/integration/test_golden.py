"""Numbers do not change unless somebody means it; see `golden`."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.helpers import golden
from threeregime.kernels import find_compiler
from threeregime.results import NUMBERS

TOLERANCE = 1e-4  # on a processor of which no numbers are stored: it rounds in another way


@pytest.mark.parametrize("case", golden.CASES, ids=str)
def test_numbers_are_those_that_are_stored(case: golden.Case) -> None:
    if case.engine == "planned" and not find_compiler():
        pytest.skip("no C++ compiler")
    stored = golden.read()
    assert stored.numbers == NUMBERS, golden.OUTDATED
    known = stored.processors.get(golden.processor())
    tolerance = TOLERANCE if known is None else 0.0
    expected = (known or next(iter(stored.processors.values())))[str(case)]
    found = golden.differences(golden.compute(case), expected, tolerance)
    assert not found, golden.CHANGED


def test_a_change_of_one_number_is_seen() -> None:
    expected = next(iter(golden.read().processors.values()))[str(golden.CASES[0])]
    changed = copy.deepcopy(expected)
    changed["pairs"][0]["lmc"] += 2e-4
    changed["nets"].pop()
    found = golden.differences(changed, expected, TOLERANCE)
    assert [line.split(":")[0] for line in found] == ["nets", "pairs[0].lmc"]
    assert not golden.differences(expected, expected)


def test_tables_of_old_numbers_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "golden.json"
    monkeypatch.setattr(golden, "TABLE", table)
    monkeypatch.setattr(golden, "CASES", ())
    for numbers, others in ((NUMBERS, ["another"]), (NUMBERS - 1, [])):
        table.write_text(json.dumps({"numbers": numbers, "processors": {"another": {}}}))
        golden.write()
        stored = golden.read()
        assert stored.numbers == NUMBERS
        assert list(stored.processors) == [*others, golden.processor()]
