"""The ledger of claims: verdicts come from the tables, and from those they rest on alone."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import spoiling
from tests.helpers.synthetic import make_diagram, make_tables
from threeregime.claims import diagram_statements, ledger
from threeregime.claims import tables as verdict_tables
from threeregime.claims import verdicts as claims
from threeregime.claims.statement import Statement
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.results import tables as results

HELD = diagram_statements.figure_2(make_diagram(make_tables()))[0]


def part(holds: bool | None) -> Statement:
    return dataclasses.replace(HELD, holds=holds)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([True], "holds"),
        ([True, True], "holds"),
        ([True, False], "holds in part"),
        ([True, None], "holds in part"),
        ([None, None], "open"),
        ([None, False], "does not hold"),
        ([False], "does not hold"),
    ],
)
def test_a_verdict_follows_from_its_parts(parts: list[bool | None], verdict: str) -> None:
    assert claims.verdict_of([part(holds) for holds in parts]) == verdict


def test_every_figure_has_a_claim_that_rests_on_known_experiments() -> None:
    where = " ".join(claim.where for claim in ledger.CLAIMS.values())
    for figure in (2, *range(3, 17)):
        assert f"Figure {figure}" in where or f"Figures {figure}" in where
    assert len(ledger.CLAIMS) >= 20
    for claim in ledger.CLAIMS.values():
        assert set(claim.experiments) <= set(catalogue.list_experiments())
        assert len(claim.statement) < 100


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of some shipped tables that tests may spoil."""
    root = tmp_path_factory.mktemp("shipped")
    for name in ("figure_06", "figure_07"):
        shutil.copytree(results.ROOT / name, root / name)
    return root


NAMES = ("rho_two_faces", "rho_by_cka", "figure_07", "depth")


def effects(root: Path) -> dict[str, list[str]]:
    """Every claim's effects in print, where one that is no number equals itself."""
    verdicts = claims.judge_claims(root=root, names=NAMES)
    return {v.claim.name: [f"{p.effect}" for p in v.parts] for v in verdicts}


def test_a_spoilt_table_changes_the_claims_that_rest_on_it_alone(
    shipped: Path, tmp_path: Path
) -> None:
    before = effects(shipped)
    assert before["depth"] == []  # not measured in this folder
    root = tmp_path / "spoilt"
    shutil.copytree(shipped, root)
    spoiling.change_rows(
        root / "figure_06" / "digits",
        "nets",
        lambda rows: rows.assign(test_error=rows["test_error"].where(rows["rho"] != 0, 1.0)),
    )
    after = effects(root)
    assert {name for name in NAMES if before[name] != after[name]} == {
        "rho_two_faces",
        "rho_by_cka",
    }
    judged = {v.claim.name: v for v in claims.judge_claims(root=root, names=NAMES)}
    # Without SAM all is wrong now, so that a large radius helps at low density and at high.
    low, high = judged["rho_two_faces"].parts
    assert low.effect > 0.5
    assert high.effect < -0.5
    assert high.holds is False
    assert judged["depth"].verdict == "not measured"


def test_a_table_with_a_part_missing_is_not_measured(shipped: Path, tmp_path: Path) -> None:
    root = tmp_path / "less"
    shutil.copytree(shipped, root)
    spoiling.drop_fleet(root / "figure_06" / "digits", "pairs")
    (verdict,) = claims.judge_claims(root=root, names=["rho_by_cka"])
    assert verdict.verdict == "not measured"
    assert (
        "some tables of figure_06 are missing at scale digits" in claims.verdict_lines([verdict])[0]
    )


def test_lines_and_table_say_the_same(shipped: Path) -> None:
    verdicts = claims.judge_claims(root=shipped, names=["rho_two_faces", "depth"])
    printed, counts = claims.verdict_lines(verdicts)[:-1], claims.verdict_lines(verdicts)[-1]
    assert [line.split("  ")[0].strip() for line in printed] == [v.verdict for v in verdicts]
    assert counts.endswith("not measured: 1")
    rows = claims.claims_table(verdicts).data.splitlines()[2:]
    assert [row.split("**")[1] for row in rows] == [v.verdict for v in verdicts]
    one = claims.judge_claims(root=shipped, names=["rho_two_faces"])[0]
    assert claims.effects(
        dataclasses.replace(one, parts=one.parts[:1])
    ) == verdict_tables.format_effect(one.parts[0])


def test_claims_are_judged_without_ipython() -> None:
    """The command line must work where no notebook can."""
    code = "import sys; sys.modules['IPython'] = None; from threeregime import cli; cli.app()"
    command = [sys.executable, "-c", code, "claims", "--only", "rho_by_cka"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rho_by_cka" in done.stdout


def test_unknown_claims_and_scales() -> None:
    with pytest.raises(ThreeRegimeError, match="'heating' is not known: one of two_a_beats_one"):
        claims.judge_claims(names=["heating"])
    (verdict,) = claims.judge_claims("mini", names=["depth"])
    assert verdict.verdict == "not measured"
