"""Studies: computed where tables are missing, and reported with their sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from threeregime.analysis.study import Study, best_temperature_table
from threeregime.errors import ThreeRegimeError
from threeregime.results import tables as results


def test_a_study_computes_what_is_missing_and_names_its_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path / "results")
    study = Study.obtain(
        "figure_12",
        "smoke",
        temperatures=[2],
        loads=[0.05, 0.4],
        dense_seeds=2,
        retrain_seeds=2,
        device="cpu",
    )
    facts = study.facts().iloc[:, 0]
    assert (facts["cells"], facts["retrained nets"]) == ("2", "8")
    assert study.experiment.protocol.pruning.method == "global"
    assert "8 nets, 4 pairs" in study.sources().data
    assert len(best_temperature_table(study.diagram)) == 2
    with pytest.raises(ThreeRegimeError, match="not allowed"):
        Study.obtain("figure_06", "smoke", temperatures=[-1.0])


def test_missing_tables_at_paper_scale_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    assert Study.at_paper_scale("figure_12") == []
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["cifar10: not yet measured", "cifar10-jpeg: not yet measured"]
    Study.at_paper_scale("figure_11")
    assert capsys.readouterr().out.splitlines() == ["svhn: not yet measured"]
