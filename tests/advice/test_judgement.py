"""The judgement: regimes, probabilities, and problems that leave no answer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from tests.advice.examples import ask, build_net, mlp, normed, pictures, trained_net
from threeregime.advice.judgement import (
    DataFacts,
    DenseErrors,
    Evidence,
    Finding,
    find_known_by_heart,
    find_problems,
    judge,
    known_by_heart,
    regime_of,
)
from threeregime.calibration import CANNOT_TELL

EVEN = (100, 100, 100, 100)
"""Examples of each class."""


def evidence(
    lmc: float = 0.0, cka: float = 0.99, train: tuple[float, ...] = (0.1, 0.1), **more: Any
) -> Evidence:
    return Evidence(lmc, cka, ((0.1, 0.1, 0.1),), train, None, **more)


def problems(
    copies: Evidence, dense: float = 0.08, counts: tuple[int, ...] = EVEN, **more: Any
) -> list[tuple[str, bool]]:
    """Return names of findings, and whether each leaves no answer."""
    errors = DenseErrors(dense, None, counts, **{"confidence": 0.9, "renumbered": dense, **more})
    found = find_problems(copies, errors, DataFacts(counts))
    return [(finding.name, finding.blocks) for finding in found]


DENSE = DenseErrors(0.08, None)


@pytest.mark.parametrize(
    ("lmc", "cka", "regime", "turn"),
    [(-0.2, 0.9, "I", "hotter"), (-0.01, 0.9, "II-A", "colder"), (0.0, 0.99, "II-B", "stay")],
)
def test_without_known_nets_the_regime_decides(
    lmc: float, cka: float, regime: str, turn: str
) -> None:
    assert regime_of(lmc, cka) == regime
    judgement = judge(evidence(lmc, cka), DENSE, 0.1, [], None)
    assert (judgement.regime, judgement.turn, judgement.probabilities) == (regime, turn, None)
    assert "the paper's rule" in judgement.basis


class Known:
    """A calibration with given probabilities."""

    words = "made up"

    def __init__(self, *chances: float) -> None:
        self.given = dict(zip(("hotter", "stay", "colder"), chances, strict=True))
        self.asked: Any = None

    def probabilities(self, measures: Any) -> dict[str, float]:
        self.asked = measures
        return self.given


@pytest.mark.parametrize(
    ("chances", "turn"),
    [
        ((0.5, 0.45, 0.05), CANNOT_TELL),
        ((0.0, 0.54, 0.46), CANNOT_TELL),
        ((0.02, 0.02, 0.96), "colder"),
        ((0.2, 0.75, 0.05), "stay"),
    ],
)
def test_the_most_probable_direction_is_the_answer_if_it_is_likely(
    chances: tuple[float, float, float], turn: str
) -> None:
    known: Any = Known(*chances)
    judgement = judge(evidence(-0.2), DENSE, 0.1, [], known)
    assert (judgement.regime, judgement.turn) == ("I", turn)
    assert judgement.probabilities == pytest.approx(known.given)
    assert bool(judgement.reason) == (turn == CANNOT_TELL)


def test_a_direction_that_was_tried_is_no_answer() -> None:
    known: Any = Known(0.5, 0.45, 0.05)
    judgement = judge(evidence(-0.2), DENSE, 0.1, [], known, {"hotter"})
    assert judgement.turn == "stay"
    assert judgement.probabilities == {
        "hotter": 0,
        "stay": pytest.approx(0.9),
        "colder": pytest.approx(0.1),
    }
    assert judge(evidence(-0.2), DENSE, 0.1, [], None, {"hotter"}).turn == "stay"
    assert judge(evidence(-0.2), DENSE, 0.1, [], None, {"colder"}).turn == "hotter"
    sure: Any = Known(1.0, 0.0, 0.0)
    for calibration, tried in ((known, {"hotter", "colder"}), (sure, {"hotter"})):
        judgement = judge(evidence(-0.2), DENSE, 0.1, [], calibration, tried)
        assert (judgement.turn, judgement.probabilities) == ("stay", None)
        assert "were tried" in judgement.basis


def test_the_direction_is_judged_by_what_the_nets_have_not_seen() -> None:
    known: Any = Known(0.1, 0.1, 0.8)
    judge(evidence(train=(0.1, 0.2)), DENSE, 0.1, [], known)
    assert (known.asked.dense_test, known.asked.test) == (0.08, pytest.approx(0.15))
    held = evidence(held_out=(0.3, 0.5))
    judge(held, DenseErrors(0.08, None, held_out=0.07), 0.1, [], known)
    assert (known.asked.dense_test, known.asked.test) == (0.07, pytest.approx(0.4))
    assert (known.asked.dense_train, known.asked.density) == (0.08, 0.1)
    both = replace(held, test=(0.2, 0.2))
    judge(both, DenseErrors(0.08, 0.09, held_out=0.07), 0.1, [], known)
    assert (known.asked.dense_test, known.asked.test) == (0.09, 0.2)
    assert known.asked.held_out == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("dense", "copies", "known"),
    [
        (
            {"hot": 0.32, "mild": 0.28, "cold": 0.0},
            {"hot": 0.36, "mild": 0.35, "cold": 0.25},
            ["cold"],
        ),
        ({"hot": 0.05, "cold": 0.0}, {"hot": 0.06, "cold": 0.03}, []),
        ({"a": 0.01, "b": 0.0}, {"a": 0.4, "b": 0.4}, ["a", "b"]),
        ({"ill": math.nan}, {"ill": math.nan}, []),
        ({"ill": math.nan, "a": 0.3}, {"ill": math.nan, "a": 0.3}, []),
    ],
)
def test_what_is_known_by_heart(dense: Any, copies: Any, known: list[str]) -> None:
    assert known_by_heart(dense, copies) == known


def test_nets_that_know_held_out_labels_by_heart_are_named() -> None:
    dense = {"a": DenseErrors(0.0, None, held_out=0.3), "b": DenseErrors(0.0, None, held_out=0.0)}
    copies = {name: evidence(held_out=(0.3, 0.4)) for name in dense}
    for chosen, blocks in (("a", False), ("b", True)):
        (finding,) = find_known_by_heart(dense, copies, chosen)
        assert finding.text.startswith("b errs less")
        assert finding.blocks == blocks
    assert find_known_by_heart({"a": dense["a"]}, {"a": copies["a"]}, "a") == []


def test_a_problem_leaves_it_open_whatever_the_regime() -> None:
    problem, doubt = Finding("x", "it is broken: mend it"), Finding("y", "doubt", blocks=False)
    for lmc in (-0.5, 0.0):
        judgement = judge(evidence(lmc), DENSE, 0.1, [doubt, problem], None)
        assert (judgement.turn, judgement.reason) == (CANNOT_TELL, "it is broken: mend it")
    assert judge(evidence(), DENSE, 0.1, [doubt], None).turn == "stay"


@pytest.mark.parametrize(
    ("copies", "options", "found"),
    [
        (evidence(), {}, []),
        (evidence(-0.3), {"dense": 0.0}, []),
        (evidence(), {"counts": (10, 10, 9, 10)}, [("few examples", True)]),
        (evidence(train=(0.76, 0.75)), {}, [("copies at chance", True)]),
        (evidence(train=(0.05, 0.7)), {}, [("collapsed copy", True)]),
        (evidence(0.3, train=(0.4, 0.4)), {"dense": 0.38}, [("not settled", True)]),
        (evidence(lost=(2,)), {}, [("lost class", True)]),
        (evidence(lost=(2,)), {"counts": (200, 200, 5, 200)}, [("lost class", False)]),
        (evidence(train=(0.3, 0.3)), {}, [("short retraining", False)]),
        (evidence(train=(0.2, 0.2)), {"dense": 0.6}, [("untrained", True)]),
        (evidence(), {"dense": 0.74}, [("dense net at chance", True)]),
        (evidence(), {"dense": 0.5, "renumbered": 0.05}, [("other labels", True)]),
        (evidence(), {"counts": (100, 100, 100, 0)}, [("missing classes", False)]),
        # Always predicting the most frequent class errs on a tenth.
        (
            evidence(train=(0.1, 0.1)),
            {"dense": 0.02, "counts": (900, 100)},
            [("copies at chance", True)],
        ),
    ],
)
def test_problems_are_named(
    copies: Evidence, options: dict[str, Any], found: list[tuple[str, bool]]
) -> None:
    assert problems(copies, **options) == found


def test_a_sure_net_at_chance_has_other_labels_or_inputs() -> None:
    for confidence, words in ((0.95, "labels or inputs"), (0.3, "it is not trained")):
        dense = DenseErrors(0.75, None, EVEN, confidence, 0.7)
        (finding,) = find_problems(evidence(), dense, DataFacts(EVEN))
        assert words in finding.text


# --- as they occur


def cautions(model: nn.Module, data: Any, **options: Any) -> list[str]:
    """Return the names of all problems; each is told, and leaves no answer."""
    answer = ask(model, data, **options)
    assert (answer.turn == CANNOT_TELL) == any(f.blocks for f in answer.findings)
    text = str(answer)
    assert ("Stay:" in text) == (answer.turn == "stay")
    assert text.count("Caution: ") == len(answer.findings)
    return [finding.name for finding in answer.findings]


LARGE = pictures(400)


def test_a_net_that_was_never_trained() -> None:
    noise = torch.randn(LARGE[0].shape, generator=torch.Generator().manual_seed(0))
    assert "dense net at chance" in cautions(build_net(normed), (noise, LARGE[1]))


def test_labels_numbered_anew() -> None:
    net = trained_net(normed, LARGE)
    assert cautions(net, (LARGE[0], (LARGE[1] + 1) % 4))[0] == "other labels"
    some = LARGE[1] >= 2
    found = cautions(net, (LARGE[0][some], LARGE[1][some] - 2))
    assert found[0] == "other labels"
    assert "missing classes" in found


def test_two_examples() -> None:
    inputs, labels = pictures()
    assert cautions(trained_net(normed, LARGE), (inputs[:2], labels[:2])) == ["few examples"]


def test_a_training_that_destroys_the_copies() -> None:
    def collapse(net: nn.Module, seed: int) -> None:
        with torch.no_grad():
            for parameter in net.parameters():
                torch.nn.init.normal_(parameter, std=1e-3)

    found = cautions(trained_net(mlp, LARGE), LARGE, retrain=collapse)
    assert found[0] in ("copies at chance", "collapsed copy")


def test_a_training_that_destroys_one_copy() -> None:
    calls: list[int] = []

    def collapse(net: nn.Module, seed: int) -> None:
        calls.append(seed)
        if len(calls) == 2:
            with torch.no_grad():
                for parameter in net.parameters():
                    torch.nn.init.normal_(parameter, std=1e-3)

    found = cautions(trained_net(mlp, LARGE), LARGE, retrain=collapse, density=1.0)
    assert found[0] == "collapsed copy"


def test_a_class_that_the_copies_no_longer_predict() -> None:
    def forget(net: nn.Module, seed: int) -> None:
        with torch.no_grad():
            net[4].bias[2] = -1e3 - seed % 7  # type: ignore[index]

    found = cautions(trained_net(mlp, LARGE), LARGE, retrain=forget, density=1.0)
    assert "lost class" in found


def test_a_stream_in_order() -> None:
    class Sorted(IterableDataset[Any]):
        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            order = LARGE[1].argsort(stable=True).tolist()
            return ((LARGE[0][i], int(LARGE[1][i])) for i in order)

    assert "stream in order" in cautions(trained_net(normed, LARGE), Sorted(), max_examples=150)
