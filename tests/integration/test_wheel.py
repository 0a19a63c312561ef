"""The package as a wheel, with the libraries that it names as its dependencies and no others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from threeregime._paths import RESULTS, ROOT

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def closure(requirements: Iterable[str]) -> dict[str, metadata.Distribution]:
    """Return the installed distributions that some requirements pull in, by name."""
    found: dict[str, metadata.Distribution] = {}
    left = [(Requirement(text), "") for text in requirements]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        if requirement.name in found and not requirement.extras:
            continue
        distribution = found[requirement.name] = metadata.distribution(requirement.name)
        for text in distribution.requires or ():
            left += [(Requirement(text), extra) for extra in ("", *requirement.extras)]
    return found


class Environment:
    """A virtual environment that holds the wheel and links to the libraries it names."""

    def __init__(self, folder: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--quiet"]
        options = ["--no-deps", "--no-index", "--no-build-isolation"]
        subprocess.run([*pip, "wheel", *options, "-w", str(folder), str(ROOT)], check=True)
        (self.wheel,) = folder.glob("threeregime-*.whl")
        self.prefix, self.cwd = folder / "venv", folder / "elsewhere"
        self.cwd.mkdir()
        venv.create(self.prefix, symlinks=True)
        (self.site,) = self.prefix.glob("lib/python*/site-packages")
        for distribution in closure(PROJECT["dependencies"]).values():
            for name in {file.parts[0] for file in distribution.files or ()}:
                source = Path(str(distribution.locate_file(name)))
                if name not in ("..", "__pycache__") and not (self.site / name).exists():
                    (self.site / name).symlink_to(source)
        python = ["--python", str(self.prefix)]
        subprocess.run([*pip, *python, "install", *options, str(self.wheel)], check=True)

    def run(self, program: str, *words: str, text: str = "") -> tuple[int, str]:
        """Run a program of the environment in another folder; return its status and its output."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [str(self.prefix / "bin" / program), *words],
            cwd=self.cwd,
            env=own,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return Environment(tmp_path_factory.mktemp("wheel"))


# A net and data of a user's own.
OWN = """
import torch

def net():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))

def data():
    inputs = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    return inputs, (inputs[:, 0] > 0).long()
"""
SWEEP = (
    "sweep figure_02 --scale smoke --only epochs=2,density=0.2 --seeds 1x2 "
    "--set data.images=160 --device cpu --workers 2"
)
COMMANDS = {
    "sweep": SWEEP,
    "sweep again": SWEEP,
    "sweep what is shipped": "sweep figure_12 --device cpu",
    "advise": "advise own.py:net --data own.py:data --density 0.5 --epochs 1 --device cpu "
    "--figure barrier.png",
    "claims": "claims --only rho_by_cka",
    "a cluster": "sweep figure_02 --dask tcp://127.0.0.1:1",
    "a notebook": "run figure_02",
    "the book": "book",
    "translation": "sweep figure_14 --scale smoke --workers 1",
}
# All of them in one process: importing PyTorch takes longer than the rest.
DRIVER = """
import contextlib, io, json, sys
from threeregime import cli

answers = []
for words in json.load(sys.stdin):
    sys.argv = ["threeregime", *words.split()]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as ended:
            status = ended.code or 0
    answers.append([status, said.getvalue()])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(installed: Environment) -> dict[str, tuple[int, str]]:
    """Status and output of each command, given in this order."""
    (installed.cwd / "own.py").write_text(OWN)
    commands = json.dumps(list(COMMANDS.values()))
    status, said = installed.run("python", "-c", DRIVER, text=commands)
    assert status == 0, said
    return dict(zip(COMMANDS, json.loads(said.splitlines()[-1]), strict=True))


def test_nothing_else_is_installed(installed: Environment) -> None:
    names = ("IPython", "dask", "distributed", "papermill", "num2words", "pytest")
    code = f"from importlib.util import find_spec; print([x for x in {names} if find_spec(x)])"
    assert installed.run("python", "-c", code) == (0, "[]\n")


def test_program_and_version_are_those_of_the_wheel(installed: Environment) -> None:
    status, said = installed.run("threeregime", "--help")
    assert status == 0
    assert all(name in said for name in ("sweep", "advise", "claims", "boundary"))
    code = "import threeregime; print(threeregime.__version__, threeregime.__file__)"
    version, _, file = installed.run("python", "-c", code)[1].strip().partition(" ")
    assert version == PROJECT["version"]
    assert Path(file).is_relative_to(installed.site)


def test_wheel_holds_the_shipped_tables(installed: Environment) -> None:
    shipped = installed.site / "threeregime" / "shipped"
    ours = {path.relative_to(RESULTS) for path in RESULTS.rglob("*.*") if path.is_file()}
    ours = {path for path in ours if "state" not in path.parts}
    assert ours
    assert {path.relative_to(shipped) for path in shipped.rglob("*.*") if path.is_file()} == ours


def test_claims_are_judged_on_them(answers: dict[str, tuple[int, str]]) -> None:
    status, said = answers["claims"]
    assert status == 0
    assert "not measured" not in said


def test_sweep_runs_in_one_process_and_writes_below_the_current_folder(
    installed: Environment, answers: dict[str, tuple[int, str]]
) -> None:
    status, said = answers["sweep"]
    assert status == 0, said
    assert "one process, without Dask: pip install 'threeregime[dask]' for more" in said
    assert list((installed.cwd / "runs/results/figure_02/smoke").glob("nets*.parquet"))
    for name in ("sweep again", "sweep what is shipped"):
        status, said = answers[name]
        assert status == 0, said
        assert "nothing to do" in said


def test_advise_answers(installed: Environment, answers: dict[str, tuple[int, str]]) -> None:
    status, said = answers["advise"]
    assert status == 0, said
    assert "Regime" in said
    assert (installed.cwd / "barrier.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a cluster", "pip install 'threeregime[dask]'"),
        ("a notebook", "run this in a checkout"),
        ("the book", "run this in a checkout"),
        ("translation", "pip install 'threeregime[translation]'"),
    ],
)
def test_what_is_not_there_is_one_line(
    answers: dict[str, tuple[int, str]], name: str, line: str
) -> None:
    status, said = answers[name]
    assert status == 2
    assert len(said.splitlines()) == 1
    assert line in said
