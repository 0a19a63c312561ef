"""Verdicts come from the tables, by what is registered, and from the studies they rest on alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import spoiling
from threeregime.claims import verdicts as claims
from threeregime.claims.effects import EFFECTS
from threeregime.claims.estimands import part_effects, part_words
from threeregime.claims.evidence import Evidence
from threeregime.claims.registration import load_registration
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.results import tables as results

REGISTRATION = load_registration()


def test_every_figure_has_a_claim() -> None:
    where = " ".join(claim.where for claim in REGISTRATION.claims.values())
    for figure in range(2, 17):
        assert f"Figure {figure}" in where or f"Figures {figure}" in where
    for claim in REGISTRATION.claims.values():
        assert len(claim.statement) < 120


def test_every_claim_has_one_to_three_parts_on_known_experiments() -> None:
    for name in REGISTRATION.claims:
        assert 1 <= len(REGISTRATION.parts_of(name)) <= 3, name
    for study in REGISTRATION.studies.values():
        assert study.experiment_name in catalogue.list_experiments()


@pytest.mark.parametrize("part", REGISTRATION.parts, ids=lambda p: f"{p.claim}-{p.name}")
def test_every_part_says_its_effect(part: claims.Part) -> None:
    assert "{" not in part_words(part)


NEEDS_COPIES = ("choice_gain", "choice_loss")


@pytest.mark.parametrize(
    "part",
    [p for p in REGISTRATION.parts if p.study == "figure_02" and p.effect not in NEEDS_COPIES],
    ids=lambda p: f"{p.claim}-{p.name}",
)
def test_nothing_that_the_paper_shows_is_contradicted_by_its_own_values(part: claims.Part) -> None:
    (effect,) = part_effects(part, Evidence.from_reference(REGISTRATION.rules))
    assert effect > 0


def test_the_headline_is_large_on_the_papers_own_values() -> None:
    effect = EFFECTS[REGISTRATION.headline.effect]
    (value,) = effect.function(Evidence.from_reference(REGISTRATION.rules))
    assert value > 0.5


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of some shipped tables that tests may spoil."""
    root = tmp_path_factory.mktemp("shipped")
    for name in ("figure_06", "figure_13"):
        shutil.copytree(results.ROOT / name, root / name)
    return root


NAMES = ("rho_two_faces", "rho_by_cka", "adam_or_sgd", "depth")


def effects(root: Path) -> dict[str, list[str]]:
    """Every claim's effects in print, where one that is no number equals itself."""
    verdicts = claims.judge_claims(NAMES, root)
    return {v.claim.name: [f"{d.effect}" for d in v.decisions] for v in verdicts}


def test_a_spoilt_table_changes_the_claims_that_rest_on_it_alone(
    shipped: Path, tmp_path: Path
) -> None:
    before = effects(shipped)
    assert before["depth"] == []  # not measured in this folder
    root = tmp_path / "spoilt"
    shutil.copytree(shipped, root)
    spoiling.change_rows(
        root / "figure_06" / "clutter",
        "nets",
        lambda rows: rows.assign(test_error=rows["test_error"].where(rows["rho"] != 0, 1.0)),
    )
    after = effects(root)
    changed = {name for name in NAMES if before[name] != after[name]}
    assert changed == {"rho_two_faces", "rho_by_cka"}
    judged = {v.claim.name: v for v in claims.judge_claims(NAMES, root)}
    # Without SAM all is wrong now, so that a large radius helps at low density and at high.
    low, high = judged["rho_two_faces"].decisions
    assert low.verdict == "holds"
    assert high.verdict == "contradicted"
    assert judged["rho_two_faces"].verdict == "mixed"
    assert judged["depth"].verdict == "not measured"


def test_a_study_with_a_part_missing_is_not_measured(shipped: Path, tmp_path: Path) -> None:
    root = tmp_path / "less"
    shutil.copytree(shipped, root)
    spoiling.change_rows(
        root / "figure_06" / "clutter", "pairs", lambda rows: rows[rows["dense_seed"] < 605]
    )
    (verdict,) = claims.judge_claims(["rho_by_cka"], root)
    assert verdict.verdict == "not measured"
    assert "no complete tables of figure_06" in claims.verdict_lines([verdict])[0]


def test_lines_and_table_say_the_same(shipped: Path) -> None:
    verdicts = claims.judge_claims(["rho_two_faces", "depth"], shipped)
    *printed, counts = claims.verdict_lines(verdicts)
    assert [line.split("  ")[0].strip() for line in printed] == [v.verdict for v in verdicts]
    assert counts.endswith("not measured: 1")
    parts = claims.decision_table(verdicts[0].decisions).data.splitlines()[2:]
    assert [row.split("**")[1] for row in parts] == [d.verdict for d in verdicts[0].decisions]


def test_a_list_has_the_claims_of_its_verdicts_alone(shipped: Path) -> None:
    verdicts = claims.judge_claims(["rho_two_faces", "depth"], shipped)
    missing = claims.verdict_list(verdicts, "not measured").data
    assert missing.startswith(f"* {verdicts[1].claim.statement}")
    assert "\n" not in missing
    assert claims.verdict_list(verdicts).data == "None."


def test_a_study_is_judged_at_the_seeds_it_has() -> None:
    study = claims.registered_study("figure_02")
    assert study is not None
    decisions = claims.judge_study(study, ["heating_helps", "cooling_helps"])
    assert [d.part.claim for d in decisions] == ["heating_helps", "cooling_helps"]
    verdicts = {v.claim.name: v.decisions for v in claims.judge_claims(["heating_helps"])}
    assert (decisions[0],) == verdicts["heating_helps"]


def test_a_study_is_read_again_when_its_tables_change(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "changed"
    shutil.copytree(shipped, root)
    before = claims.registered_study("figure_06", root)
    assert before is not None
    assert claims.registered_study("figure_06", root) is before
    spoiling.change_rows(
        root / "figure_06" / "clutter", "nets", lambda rows: rows.assign(test_error=1.0)
    )
    after = claims.registered_study("figure_06", root)
    assert after is not None
    assert after is not before
    # Other shipped tables are other tables, although the name and the folder given are the same.
    assert claims.registered_study("figure_13") is not None
    monkeypatch.setattr(results, "ROOT", tmp_path / "none")
    assert claims.registered_study("figure_13") is None


def test_the_default_diagram_has_the_papers_shape() -> None:
    """All three regimes are large, and the boundary of Regime I moves with the temperature."""
    study = claims.registered_study("figure_02")
    assert study is not None
    regime = study.diagram.grid("regime")
    for name in ("I", "II-A", "II-B"):
        assert (regime == name).mean() >= 0.15
    edges = (regime == "I").sum(axis=1)  # loads in Regime I at each temperature, hot to cold
    assert edges[-1] > edges[: len(edges) // 2].mean()


def test_claims_are_judged_without_ipython() -> None:
    """The command line must work where no notebook can."""
    code = "import sys; sys.modules['IPython'] = None; from threeregime import cli; cli.app()"
    command = [sys.executable, "-c", code, "claims", "--only", "rho_by_cka,depth"]
    done = subprocess.run([*command, "--only", "rho_two_faces"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, _ = done.stdout.splitlines()
    assert {line.split()[1] for line in lines} == {"rho_by_cka", "depth", "rho_two_faces"}


def test_unknown_claims() -> None:
    with pytest.raises(ThreeRegimeError, match="'heating' is not known: one of two_a_beats_one"):
        claims.judge_claims(["heating"])


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ThreeRegimeError, match="gone is missing: name a folder of tables"):
        claims.judge_claims(["depth"], tmp_path / "gone")
