"""The command `threeregime advise`, and the README's example."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

from tests.advice.examples import build_net
from threeregime import _option_values as values
from threeregime import calibration, cli
from threeregime._paths import ROOT
from threeregime.advice import advisor, user_data

NET = """
import torch
from torch import nn

def build(width=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * width, 10),
    )

net = build()

def fails():
    raise KeyError("no")

def noise():
    return torch.rand(40, 1, 8, 8), torch.arange(40) % 10

def both():
    return noise(), noise()

def retrain(net, seed):
    print("retrains with", len(list(net.parameters())))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of digits, a file with a net, and its weights."""
    root = tmp_path_factory.mktemp("advise")
    digits = load_digits()
    for number in range(120):
        split = "train" if number < 80 else "test"
        folder = root / "pictures" / split / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 15).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "my_nets.py").write_text(NET)
    net = build_net(lambda: values.user_object(f"{root}/my_nets.py:build"))
    train, _ = user_data.load_folder(root / "pictures", grey=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(9):
        if epoch % 4 == 0:
            torch.save(net.state_dict(), root / f"epoch_{epoch}.pt")
        for batch in torch.arange(80).split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(train.inputs[batch]), train.targets[batch]).backward()
            optimizer.step()
    return root


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in the folder of the files."""

    def run(*given: str) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["threeregime", "advise", *given])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        sys.modules.pop("my_nets", None)
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


SHORT = ("--epochs", "1", "--density", "0.3", "--device", "cpu")
QUICK = ("--data", "pictures", *SHORT)


def test_random_weights(command: Command, place: Path) -> None:
    status, out, err = command("my_nets.py:build", *QUICK, "--figure", "barrier.png")
    assert (status, err) == (0, "")
    assert out.startswith("Pruned to 30 % of its weights")
    assert "training error on the line" in out.lower()
    assert "64 of 80 training examples, 16 held out from retraining, all 40 test examples" in out
    with Image.open(place / "barrier.png") as drawn:
        assert drawn.size[0] > 400


def test_trained_weights_as_json(command: Command) -> None:
    status, out, _ = command(
        "my_nets.py:build(width=4)", *QUICK, "--weights", "epoch_8.pt", "--json"
    )
    assert status == 0
    advice = json.loads(out)
    assert advice["chosen"] == "epoch_8"
    # the pictures reach the net as it was trained on them
    assert advice["dense"]["epoch_8"]["train"] < 0.2


@pytest.mark.parametrize("given", [("--weights", "epoch_*.pt"), ("epoch_0.pt", "epoch_4.pt")])
def test_several_checkpoints(command: Command, given: tuple[str, ...]) -> None:
    status, out, err = command("my_nets.py:build", *given, *QUICK, "--progress")
    assert status == 0
    assert "\nPrune epoch_" in out
    assert "(Algorithm 2)" in out
    assert "about" in err
    assert "times that if copies are poorly connected" in err
    status, out, err = command("my_nets.py:build", *given, *QUICK, "--progress", "--retrain-all")
    assert status == 0
    assert "(grid search)" in out
    assert "not retrained" not in out
    assert f"{3 if given[0] == '--weights' else 2} nets: " in err


@pytest.mark.parametrize(
    ("net", "data", "tested"),
    [
        ("my_nets.py:build", ("my_nets.py:noise", "--test", "my_nets.py:noise"), 40),
        ("my_nets:build", ("my_nets:both",), 40),
        ("my_nets.py:net", ("my_nets:noise",), 0),
        ("my_nets:net", ("pictures", "--test", "pictures/test"), 40),
        ("my_nets:net", ("pictures", "--test", "pictures", "--size", "8", "--grey"), 40),
    ],
)
def test_nets_and_data_in_other_forms(
    command: Command, net: str, data: tuple[str, ...], tested: int
) -> None:
    status, out, err = command(net, "--data", *data, *SHORT, "--lr", "0.01")
    assert (status, err) == (0, "")
    assert (f"all {tested} test examples" in out) == bool(tested)


def test_the_seed_draws_weights_and_data_too(command: Command) -> None:
    def evidence(seed: str) -> object:
        given = ("--data", "my_nets.py:noise", *SHORT, "--lr", "0.01", "--json", "--seed", seed)
        status, out, err = command("my_nets.py:build", *given)
        assert status == 0, err
        return json.loads(out)["evidence"]

    assert evidence("1") == evidence("1") != evidence("2")


def test_what_is_pruned_and_how_it_is_retrained(command: Command) -> None:
    options = ("--method", "global", "--keep", "0", "--weight-decay", "0.01")
    status, out, err = command("my_nets.py:build", *QUICK, *options)
    assert status == 0, err
    assert "of the weights of all 1 layers (1 Conv2d; 144 weights)" in out
    assert "weight decay 0.01" in out
    options = ("--prune", "0", "--prune", "6", "--retrain", "my_nets.py:retrain")
    status, out, err = command("my_nets.py:build", *QUICK, *options)
    assert status == 0, err
    assert "(1 Conv2d, 1 Linear;" in out
    assert out.count("retrains with 8") == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nets.py:build", *QUICK), "nets.py is missing: name a Python file"),
        (("my_nets.py:make", *QUICK), "my_nets.py has no function make"),
        (("my_nets.py", *QUICK), "is not of the form FILE.py:function"),
        (("my_nets.py:build(x)", *QUICK), "is no call of a function with numbers or words"),
        (("my_nets.py:fails", *QUICK), "my_nets.py:fails fails: KeyError"),
        (("no.such.module:f", *QUICK), "no.such.module cannot be imported"),
        (("my_nets.py:build", *QUICK, "--weights", "no.pt"), "no.pt is missing"),
        (("my_nets.py:build", *QUICK, "--weights", "no_*.pt"), "no_*.pt is missing"),
        (
            ("my_nets.py:build", *QUICK, "--weights", "my_nets.py"),
            "my_nets.py is no file of weights",
        ),
        (
            ("my_nets.py:build(width=5)", *QUICK, "--weights", "epoch_0.pt"),
            "epoch_0 is of another architecture: 0.weight is [4, 1, 3, 3], in the net [5, 1, 3, 3]",
        ),
        (("my_nets.py:build", "--data", "none"), "data = 'none' is not there"),
        (("my_nets.py:build", "--data", "pictures/train"), "pictures/train/train is missing"),
        (("my_nets.py:build", *QUICK, "--test", "none"), "test = 'none' is not there"),
        (("my_nets.py:build",), "data = '' is not there"),
        (("my_nets.py:build", *QUICK, "--mean", "a"), "mean = 'a' is not allowed"),
        (("my_nets.py:build", *QUICK, "--std", "0"), "std = '0' is not allowed"),
        (
            ("my_nets.py:build", *QUICK, "--figure", "no/b.png"),
            "figure = 'no/b.png' is not allowed",
        ),
        (("my_nets.py:build", *QUICK, "--density", "2"), "density = 2.0 is not allowed"),
        (("my_nets.py:build", *QUICK, "--seed", f"{2**64}"), f"seed = {2**64} is not allowed"),
    ],
)
def test_errors_are_one_line(command: Command, given: tuple[str, ...], message: str) -> None:
    status, out, err = command(*given)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("threeregime: ")
    assert len(err.splitlines()) == 1


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"epoch_{number}.pt").write_text("")
    files = values.find_files([str(tmp_path / "epoch_*.pt")])
    assert list(values.name_files(files)) == ["epoch_1", "epoch_2", "epoch_10"]
    twins = [Path("a/last.pt"), Path("b/last.pt")]
    assert list(values.name_files(twins)) == ["a/last.pt", "b/last.pt"]


def test_an_interrupt_says_that_nothing_is_kept(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(advisor, "inspect_net", interrupted)
    status, out, err = command("my_nets.py:build", *QUICK)
    assert (status, out) == (130, "")
    assert err.splitlines()[-1] == "stopped; nothing is kept"


# --- the README


@pytest.mark.exhaustive
@pytest.mark.slow
def test_the_readme_s_example_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = (ROOT / "README.md").read_text().split("## Advice for your own net")[1]
    section = section.split("\n## ")[0]
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advisor, "load_calibration", calibration.load_calibration)
    (shell,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    for message in (line_.split("#")[0].split() for line_ in shell.splitlines()):
        if message[:1] == ["python"]:
            import runpy

            runpy.run_path(message[1], run_name="__main__")
        elif message:
            given = [word.strip("'\"") for word in message]
            assert given[:2] == ["threeregime", "advise"]
            monkeypatch.setattr(sys, "argv", [*given, "--epochs", "1", "--device", "cpu"])
            with pytest.raises(SystemExit) as caught:
                cli.main()
            assert not caught.value.code
            assert "Regime" in capsys.readouterr().out
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "Regime" in capsys.readouterr().out
