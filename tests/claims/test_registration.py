"""What is registered is complete, and about experiments, seeds and claims that there are."""

from __future__ import annotations

import subprocess

import pytest

from threeregime._paths import REGISTERED, ROOT
from threeregime.analysis import NO_NET_SHARE
from threeregime.claims import registered_study
from threeregime.claims.registration import load_registration, parse_registration
from threeregime.errors import ThreeRegimeError

TEXT = REGISTERED.read_text()


def test_the_rules_are_those_of_the_diagrams() -> None:
    assert load_registration().rules.no_net == NO_NET_SHARE


def test_studies_have_the_seeds_of_their_experiments_and_share_none() -> None:
    registration = load_registration()
    last = max(registration.rules.looks)
    used: set[int] = set()
    for study in registration.studies.values():
        experiment = study.experiment(last)
        assert experiment.dense_seeds[0] == study.first_dense_seed
        assert len(experiment.dense_seeds) == last
        assert len(experiment.retrain_seeds) == study.copies
        assert used.isdisjoint(experiment.dense_seeds)
        used |= {*experiment.dense_seeds}


def test_a_registered_grid_counts_whatever_the_experiment_lists() -> None:
    text = TEXT.replace("first_dense_seed = 700", "first_dense_seed = 700\ntemperatures = [16, 96]")
    study = parse_registration(text).studies["figure_07"]
    assert study.experiment(6).temperatures == (16, 96)
    registered = load_registration().studies["figure_08"]
    assert registered.experiment(6).temperatures == (12, 24, 36, 48, 72, 96)


def test_the_looks_cost_five_percent() -> None:
    """The chance of a false verdict over all looks, for normal effects without any truth."""
    import numpy as np
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    rules = load_registration().rules
    rng = np.random.default_rng(0)
    effects = rng.standard_normal((40_000, max(rules.looks)))
    decided = np.zeros(len(effects), dtype=bool)
    for seeds in rules.looks:
        part = effects[:, :seeds]
        score = part.mean(axis=1) / (part.std(axis=1, ddof=1) / seeds**0.5)
        decided |= np.abs(score) > stdtrit(seeds - 1, 1 - rules.level / 2)
    assert 0.045 < decided.mean() < 0.056


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('effect = "cooling_gain"', 'effect = "cooling"', "effect = 'cooling' is none of"),
        ('study = "figure_02"', 'study = "figure_99"', "study = 'figure_99' is not among"),
        ("copies = 3", "", "copies"),
        ("level = 0.0221", "level = 0.5", "level be below 0.05"),
        ('claim = "depth"', 'claim = "deep"', "claim = 'deep' is not among the claims"),
        ('"figure_02", "figure_03_width"', '"figure_2"', "study = 'figure_2' is not among"),
        ('claim = "two_b_beats_two_a"', 'claim = "two_a_beats_one"', "a part occurs twice"),
        ("margin = 0.10", "margins = 0.10", "margin"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, problem: str) -> None:
    assert old in TEXT
    with pytest.raises(ThreeRegimeError, match=problem):
        parse_registration(TEXT.replace(old, new, 1))


def git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("name", list(load_registration().studies))
def test_a_study_was_registered_before_it_was_computed(name: str) -> None:
    """The commit that computed each table descends from the one that registered its study."""
    if not (ROOT / ".git").exists() or git("rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("the history is not here")
    study = registered_study(name)
    if study is None:
        pytest.skip("not computed yet")
    pattern = rf"-Sstudies.{name}]"
    path = str(REGISTERED.relative_to(ROOT))
    registered = git("log", "--reverse", "--format=%H", pattern, "--", path).splitlines()[0]
    for computed in set(study.tables.origins["commit"]):
        assert not computed.endswith("+"), "computed with changes that were not committed"
        done = subprocess.run(
            ["git", "merge-base", "--is-ancestor", registered, computed], cwd=ROOT, check=False
        )
        assert done.returncode == 0
