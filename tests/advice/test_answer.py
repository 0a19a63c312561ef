"""The answer as text, HTML, JSON and figure, and what is shown while it is computed."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.advice.examples import ask, build_net, mlp, pictures, trained
from threeregime.advice import progress
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.judgement import CANNOT_TELL, DenseErrors, Evidence, Finding
from threeregime.errors import ThreeRegimeError

CHANCES = {"hotter": 0.9, "stay": 0.07, "colder": 0.03}


def answer(lmc: float = -0.2, cka: float = 0.9, chances: Any = None, **fields: Any) -> Advice:
    evidence = Evidence(lmc, cka, ((0.1, 0.3, 0.1),), (0.1, 0.12), None)
    values: dict[str, Any] = {
        "regime": "I" if lmc < -0.05 else "II-A",
        "turn": "hotter" if lmc < -0.05 else "colder",
        "reason": "",
        "probabilities": chances,
        "basis": "made up",
        "findings": (),
        "notes": (),
        "chosen": "a",
        "rule": "",
        "density": 0.05,
        "evidence": {"a": evidence},
        "dense": {"a": DenseErrors(0.02, None)},
        "retraining": {
            "optimizer": "sgd",
            "lr": 0.1,
            "weight_decay": 0.0,
            "milestones": [1],
            "epochs": 2,
            "batch_size": 12,
            "copies": 2,
            "seed": 0,
            "function": "",
        },
        "pruned": {
            "weights": 100,
            "layers": 2,
            "classifier": "fc",
            "kinds": {"Conv2d": 2},
            "method": "uniform",
        },
        "examples": {
            "train": 100,
            "train_found": 200,
            "test": None,
            "test_found": None,
            "held_out": 0,
        },
        "cost": Cost(4, 40, 1.0, "cpu"),
    }
    return Advice(**{**values, **fields})


def test_what_pruning_costs_comes_first() -> None:
    first = str(answer()).splitlines()[0]
    assert first == (
        "Pruned to 5 % of its weights and retrained, the net errs on 10.0, 12.0 % of the training "
        "examples (its copies), dense on 2.0 %: pruning costs 9.0 points."
    )
    assert answer().pruning_cost == pytest.approx(0.09)
    gains = answer(dense={"a": DenseErrors(0.5, None)})
    assert "pruning with retraining gains 39.0 points" in str(gains)
    unknown = answer(dense={"a": DenseErrors(math.nan, None)})
    assert "what pruning costs is unknown" in str(unknown)


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        ("hotter", "stop the dense run earlier"),
        ("colder", "for longer"),
        ("stay", "prune the net as it is"),
    ],
)
def test_each_direction_is_recommended(turn: str, said: str) -> None:
    assert said in str(answer(turn=turn))
    assert not answer(turn=turn).open


def test_no_answer_is_told_with_its_reason() -> None:
    text = str(answer(turn=CANNOT_TELL, reason="too close; give more copies."))
    assert "Cannot tell whether to train hotter or colder: too close; give more copies.\n" in text
    finding = Finding("x", "the copies are at chance: give more epochs")
    told = answer(turn=CANNOT_TELL, reason=finding.text, findings=(finding,))
    assert told.open
    assert str(told).count("at chance") == 1
    assert "Caution: The copies are at chance: give more epochs.\n" in str(told)
    assert "Train hotter" not in str(told)


def test_notes_and_probabilities_are_told() -> None:
    sure = answer(chances=CHANCES, notes=("stem was frozen",))
    assert "SAM with a larger rho. Probability 90% (stay 7%, colder 3%).\n" in str(sure)
    assert "The probability is made up. Yours may be of another kind." in str(sure)
    assert "Probability" not in str(answer())
    assert "\nNote: stem was frozen.\n" in str(sure)


def test_json_holds_everything_and_no_nan() -> None:
    broken = Evidence(math.nan, math.nan, ((math.nan,) * 3,), (math.nan, 0.1), None)
    whole = answer(chances=CHANCES)
    written = json.loads(whole.to_json())
    assert written["evidence"] == json.loads(json.dumps(dataclasses.asdict(whole)["evidence"]))
    assert (written["regime"], written["turn"]) == (whole.regime, whole.turn)
    several = answer(evidence={**whole.evidence, "b": broken})
    text = several.to_json()
    assert "NaN" not in text
    assert json.loads(text)["evidence"]["b"]["lmc"] is None


def test_a_notebook_shows_the_text_and_the_barrier() -> None:
    drawn = answer(chosen="a", notes=("1 < 2",))._repr_html_()
    text, svg = re.fullmatch(r"<pre>(.*)</pre>(<svg.*</svg>)\s*", drawn, re.DOTALL).groups()  # type: ignore[union-attr]
    assert "1 &lt; 2" in text
    assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_a_figure_that_cannot_be_written(tmp_path: Path) -> None:
    answer().figure(tmp_path / "a.svg")
    with pytest.raises(ThreeRegimeError, match=r"a\.what cannot be written"):
        answer().figure(tmp_path / "a.what")


# --- while it is computed


def test_a_forecast_and_a_bar_that_covers_all(capsys: pytest.CaptureFixture[str]) -> None:
    ask(build_net(mlp), pictures(), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    forecast = (
        r"40 steps to find the rate, 2 copies x 8 steps, then LMC and CKA: about \d+ s on cpu"
    )
    assert re.search(forecast, err)
    shares = [int(share) for share in re.findall(r"(\d+)%\|", err)]
    assert shares == sorted(shares)
    ask(build_net(mlp), pictures())
    assert capsys.readouterr() == ("", "")


def test_the_forecast_of_several_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    states = trained(mlp, pictures(), (0, 1))
    ask(build_net(mlp), pictures(), checkpoints=states, progress=True)
    assert "up to 2 times that if copies are poorly connected" in capsys.readouterr().err


@pytest.mark.parametrize(("shell", "shown"), [("ZMQInteractiveShell", True), ("Other", False)])
def test_the_bar_shows_in_notebooks(
    shell: str, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    instance = type(shell, (), {})()
    ipython = SimpleNamespace(get_ipython=lambda: instance)
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert progress._in_notebook() == shown
    monkeypatch.undo()
    assert not progress._in_notebook()
