"""The nets whose truth is known: their table, what is learned from it, and its accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import known_nets as benchmark
from benchmarks.kinds import KINDS, load
from tests.advice.examples import Silent
from threeregime.advice import accuracy
from threeregime.advice.candidates import LiveTrials
from threeregime.advice.inspection import inspect_net
from threeregime.advice.model import state_of
from threeregime.calibration import (
    CANNOT_TELL,
    DIRECTIONS,
    Measures,
    directions,
    known_nets,
    load_calibration,
    load_known_nets,
)
from threeregime.calibration.known_nets import true_probabilities
from threeregime.data import TensorTask
from threeregime.training import RATES, default_retraining


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return load_known_nets()


# --- the truth


@pytest.mark.parametrize(
    ("hotter", "colder", "error", "expected"),
    [
        (0.02, 0.0, 0.0, (1, 0, 0)),
        (0.02, 0.03, 0.0, (0, 0, 1)),
        (0.009, -0.2, 0.0, (0, 1, 0)),
        (0.01, -1.0, 0.05, (0.5, 0.5, 0)),  # at the limit: one half
        (1.0, 1.0, 0.05, (0.5, 0, 0.5)),
        (0.06, -1.0, 0.05, (0.841, 0.159, 0)),  # one standard error above it
        (0.01, 0.01, 0.02, (0.375, 0.25, 0.375)),
    ],
)
def test_a_side_is_better_by_a_point_as_surely_as_it_was_measured(
    hotter: float, colder: float, error: float, expected: tuple[float, float, float]
) -> None:
    chances = true_probabilities(hotter, colder, error)
    assert [chances[name] for name in DIRECTIONS] == pytest.approx(expected, abs=2e-3)
    assert sum(chances.values()) == pytest.approx(1)
    assert min(chances.values()) >= 0


def test_gains_of_equal_stops_have_no_bias() -> None:
    """The best of many equal stops looks better; chosen on other seeds it does not."""
    rng = np.random.default_rng(0)
    gains = [
        known_nets._gains(rng.normal(0.1, 0.01, (4, 7)), 3, [0, 1, 2]).mean() for _ in range(2000)
    ]
    assert abs(np.mean(gains)) < 3 * np.std(gains) / np.sqrt(2000)
    naive = [min(rng.normal(0.1, 0.01, 3)) for _ in range(2000)]
    assert np.mean(naive) < 0.093


def test_the_truth_is_seldom_wrong_where_all_stops_are_equal() -> None:
    rng = np.random.default_rng(1)
    wrong = []
    for _ in range(60):
        stops = [2, 5, 10, 20, 40]
        nets = pd.DataFrame([(e, s, rng.normal(0.1, 0.01)) for e in stops for s in range(4)])
        nets.columns = pd.Index(["epochs", "seed", "error"])
        cells = known_nets.true_directions(nets.assign(kind="made", density=0.1))
        wrong += ((cells["truth"] != "stay") & cells["known"]).tolist()
    assert np.mean(wrong) < 0.05


# --- the table


def test_the_table_holds_every_kind(table: pd.DataFrame) -> None:
    assert known_nets.KNOWN_NETS.read_text(encoding="utf-8").startswith("# ")
    for kind in KINDS:
        nets = table[table["kind"] == kind.name]
        cells = len(benchmark.EPOCHS) * len(benchmark.DENSITIES) * len(benchmark.SEEDS)
        assert len(nets) == cells
        assert set(nets["role"]) == {kind.role}
    assert set(table["kind"]) == {kind.name for kind in KINDS}
    assert table["error"].between(0, 1).all()
    ends = table["epochs"].isin([min(benchmark.EPOCHS), max(benchmark.EPOCHS)])
    assert table.loc[ends, "truth"].isna().all()
    assert not table.loc[ends, "known"].any()
    chances = table.loc[~ends, [f"true_{name}" for name in DIRECTIONS]]
    assert np.allclose(chances.sum(axis=1), 1)
    truth = table.loc[~ends, "truth"]
    assert set(truth) == set(DIRECTIONS)
    assert (chances.idxmax(axis=1) == "true_" + truth).all()
    assert (table.loc[~ends, "known"] == (chances.max(axis=1) >= known_nets.KNOWN)).all()


def test_a_net_teaches_each_direction_by_its_probability(table: pd.DataFrame) -> None:
    """Where no feature tells nets apart, the answer is the mean of their probabilities."""
    nets = table.dropna(subset=["truth"]).iloc[:40].copy()
    measured = ("dense_", "train_", "test_", "held_out_", "density")
    same = [name for name in map(str, nets) if name.startswith(measured)]
    nets[same] = nets[same].iloc[0].to_numpy()
    fitted = directions.fit(nets, held_out=False)
    chances = fitted.probabilities(Measures.of_table(nets.iloc[[0]], held_out=False))
    assert chances is not None
    for name in DIRECTIONS:
        assert chances[name] == pytest.approx(nets[f"true_{name}"].mean(), abs=0.05)


KIND = next(kind for kind in KINDS if kind.name == "small MLP, 40 % noise")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first row of a kind alone."""
    for name, values in (("EPOCHS", (2,)), ("SEEDS", (0,)), ("DENSITIES", (0.3,))):
        monkeypatch.setattr(benchmark, name, values)


@pytest.mark.usefixtures("small")
def test_a_row_of_the_table_is_computed_again(table: pd.DataFrame) -> None:
    (made,) = benchmark.rows(KIND).to_dict("records")
    cell = (table["kind"] == KIND.name) & (table["density"] == 0.3)
    (shipped,) = table[cell & (table["seed"] == 0) & (table["epochs"] == 2)].to_dict("records")
    for name, value in made.items():
        # Rounding depends on the companions in a fleet and on the processor; training amplifies it.
        near = pytest.approx(shipped[name], abs=0.04) if isinstance(value, float) else shipped[name]
        assert value == near, name


@pytest.mark.usefixtures("small")
def test_advise_measures_what_the_table_says(table: pd.DataFrame) -> None:
    task, _ = load(KIND)
    dense = benchmark.train_dense(KIND, task)
    net = KIND.build()
    net.load_state_dict({name: tensor[0] for name, tensor in dense.state().items()})
    adapted, splits = inspect_net(net, (task.train, task.test))
    given, held_out = TensorTask("the same", *splits, 10).hold_out()
    recipe = default_retraining(given.count, adapted.batch_norm)
    trials = LiveTrials(
        adapted, {"it": state_of(adapted.module)}, given, 0.3, recipe, 2, 0, Silent(),
        rates=RATES["adam"], held_out=held_out,
    )  # fmt: skip
    trials.retrain("it", recipe.epochs)
    expected = benchmark.evidence(KIND, dense, 0.3, task)
    seen = trials.evidence["it"]
    assert trials.recipe.lr == expected["rate"][0]
    assert seen.lmc == pytest.approx(expected["lmc"][0], abs=0.02)
    assert seen.cka == pytest.approx(expected["cka"][0], abs=0.02)
    assert seen.test is not None
    assert seen.test == pytest.approx((expected["test_0"][0], expected["test_1"][0]), abs=0.03)
    held = (expected["held_out_0"][0], expected["held_out_1"][0])
    assert seen.held_out == pytest.approx(held, abs=0.03)


# --- what is learned from it


@pytest.mark.parametrize("held_out", [False, True])
def test_probabilities_are_of_nets_that_look_alike(held_out: bool, table: pd.DataFrame) -> None:
    fit = load_calibration(held_out)
    assert fit is not None
    nets = table.dropna(subset=["truth"])
    assert fit.nets == 4 * nets.loc[nets["role"] == "train", "kind"].nunique()
    first = Measures.of_table(nets.iloc[[0]], held_out)
    chances = fit.probabilities(first)
    assert chances is not None
    assert sum(chances.values()) == pytest.approx(1)
    assert fit.probabilities(Measures(-0.5, 0.5, 0.0, 0.9, 0.9, 0.0, 0.9, 1e-4)) is None
    assert "small dense nets of" in fit.words
    both = load_calibration(held_out, similarity=True)
    assert both is not None
    assert both.known.shape[1] == fit.known.shape[1] + 2


def test_without_a_table_there_is_no_calibration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(directions, "KNOWN_NETS", tmp_path / "none.csv")
    load_calibration.cache_clear()
    assert load_calibration() is None
    load_calibration.cache_clear()


# --- its accuracy


def test_kinds_of_the_role_test_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    class Silent:
        def shares(self, measures: Any) -> Any:
            return np.full((len(measures.lmc), 3), np.nan)

    def load(
        held_out: bool, without: tuple[str, ...], similarity: bool, copies: int, longer: bool
    ) -> Silent:
        asked.append(without)
        return Silent()

    monkeypatch.setattr(accuracy, "load_calibration", load)
    answers = accuracy.answer_known_nets()
    roles = [kind.role for kind in KINDS]
    left_out = [name for kinds in asked for name in kinds]
    assert sorted(left_out) == sorted(kind.name for kind in KINDS if kind.role == "train")
    assert asked.count(()) == 1
    assert set(answers["answer"]) == {CANNOT_TELL}
    assert roles.count("test") >= 6


def test_accuracy_counts_dense_nets() -> None:
    answers = pd.DataFrame(
        {
            "kind": ["a", "a", "a", "b"],
            "seed": [0, 0, 1, 0],
            "truth": ["hotter", "stay", "stay", "stay"],
            "answer": ["hotter", "hotter", CANNOT_TELL, "stay"],
            "known": [True, True, True, True],
        }
    )
    found = accuracy.accuracy_of(answers)
    assert found.right == pytest.approx(0.75)  # of one net half, of another one all
    assert (found.unanswered, found.nets, found.answers) == (0.25, 3, 3)
    assert accuracy.blind_accuracy(answers) == {"hotter": 0.25, "stay": 0.75, "colder": 0}
    answers.loc[0, "known"] = False
    found = accuracy.accuracy_of(answers)
    assert (found.right, found.unanswered, found.answers) == (0.5, 0.25, 2)
    assert accuracy.blind_accuracy(answers)["stay"] == 1


@pytest.mark.parametrize("held_out", [False, True])
def test_rules_choose_among_stops(held_out: bool) -> None:
    choices = accuracy.choose_known_nets(held_out)
    assert (choices["lost"].dropna() >= 0).all()
    assert choices["chosen"].dropna().isin(benchmark.EPOCHS).all()
    table = accuracy.choice_table(choices)
    assert (table["mean loss"] <= table["largest loss"]).all()
    if held_out:
        trusted = choices[choices["rule"] == "Algorithm 2.1, if it can be trusted"].dropna()
        at = ["kind", "density", "seed"]
        nets = trusted.merge(load_known_nets(), left_on=[*at, "chosen"], right_on=[*at, "epochs"])
        wrong = 0.9 * nets["kind"].map({kind.name: kind.noise for kind in KINDS})
        # A net that errs on fewer of its training examples than are wrong knows these by heart.
        assert (nets["dense_train"] > 0.8 * wrong)[wrong > 0.25].all()


def test_the_errors_of_one_copy_are_those_of_the_first() -> None:
    nets = load_known_nets().iloc[:5]
    one, two = (Measures.of_table(nets, held_out=False, copies=copies) for copies in (1, 2))
    assert np.array_equal(one.train, nets["train_0"])
    assert np.allclose(2 * np.asarray(two.test), nets["test_0"] + nets["test_1"])
