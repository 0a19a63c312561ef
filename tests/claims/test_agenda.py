"""The agenda: which looks are missing, and that a run goes on where it was."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from threeregime.claims import agenda, verdicts
from threeregime.claims.registration import Registration, parse_registration
from threeregime.errors import ThreeRegimeError
from threeregime.results import load_results, shards

# Two looks at two tiny studies; of the second the data set is not here.
TEXT = """
[rules]
looks = [2, 3]
level = 0.0221
margin = 0.10
futile = 0.10
no_net = 1.1
window = [0.3, 0.55]

[headline]
effect = "lmc_by_load"
studies = ["figure_02"]

[studies.figure_02]
scale = "smoke"
first_dense_seed = 0
copies = 2

[studies.photographs]
experiment_name = "figure_02"
scale = "smoke"
data = "svhn"
first_dense_seed = 0
copies = 2

[claims.open]
where = "here"
statement = "One that two seeds leave open."

[claims.photographs]
where = "here"
statement = "One on photographs."

[[parts]]
claim = "open"
study = "figure_02"
name = "cooling"
effect = "cooling_gain"

[[parts]]
studies = ["photographs"]
name = "rank"
effect = "lmc_by_load"
"""


@pytest.fixture
def registration(monkeypatch: pytest.MonkeyPatch) -> Registration:
    made = parse_registration(TEXT)
    for module in (agenda, verdicts):
        monkeypatch.setattr(module, "load_registration", lambda: made)
    return made


def test_wrong_number_of_workers_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ThreeRegimeError, match="workers = -1 is not allowed: 0 or more"):
        next(agenda.run_looks(tmp_path, workers=-1))


@pytest.mark.slow
def test_looks_are_run_until_none_is_open(
    registration: Registration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = agenda.missing_looks(tmp_path, tmp_path)
    assert (first.study.name, first.seeds, first.claims) == ("figure_02", 2, ("open",))
    assert first.seconds is not None
    assert other.problem.startswith("SVHN is not in")
    *lines, total = agenda.look_lines([first, other])
    assert "open" in lines[0]
    assert "SVHN is not in" in lines[1]
    assert total.startswith("2 looks")

    # No time: nothing is begun, and nothing is lost.
    (said,) = agenda.run_looks(tmp_path, data_dir=tmp_path, workers=1, deadline=time.time())
    assert said == "figure_02: 2 dense seeds, for open"

    said, again = agenda.run_looks(tmp_path, data_dir=tmp_path, workers=1)
    assert again.startswith("figure_02: 3 dense seeds")
    assert [look.problem != "" for look in agenda.missing_looks(tmp_path, tmp_path)] == [True]
    study = verdicts.registered_study("figure_02", tmp_path)
    assert study is not None
    assert study.experiment.dense_seeds == (0, 1, 2)
    at = shards.tables_folder(tmp_path, "figure_02", "smoke")
    assert len(load_results(study.experiment, tmp_path).nets) == 6 * 3 * 2
    assert not list(shards.shard_paths(at, "nets"))  # packed
