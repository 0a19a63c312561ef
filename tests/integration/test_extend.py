"""The page on extending keeps its word: its script runs as printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from threeregime._paths import ROOT
from threeregime.book.kernel_server import environment
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue

PAGE = (ROOT / "book" / "extend.md").read_text()


def blocks(kind: str) -> list[str]:
    """The page's code of one kind, in order."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, flags=re.S | re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's two files in it."""
    made = tmp_path_factory.mktemp("extend")
    (toml,) = blocks("toml")
    (made / "rates.toml").write_text(toml)
    (made / "rates.py").write_text("\n\n".join(blocks("python")))
    return made


@pytest.mark.slow
def test_script_makes_a_study_of_new_parts(folder: Path) -> None:
    """New data, net and temperature: a diagram with every cell, and verdicts on it."""
    done = subprocess.run(
        [sys.executable, "rates.py"], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "rates.png").stat().st_size > 10_000
    assert "Test error (%) (rate from hot to cold)" in done.stdout
    assert "rank correlation of LMC with the lightness of the load" in done.stdout
    cells = re.search(r"rate[ ]*\n0\.5 (.*)\n0\.1 (.*)\n0\.02 (.*)\n", done.stdout)
    assert cells, done.stdout
    assert all(len(row.split()) == 3 for row in cells.groups())


@pytest.mark.slow
def test_second_run_reads_what_the_first_computed(folder: Path) -> None:
    """Nothing is trained twice."""
    done = subprocess.run(
        [sys.executable, "rates.py"], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert "nothing to do" in done.stdout


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('temperature = "rate"', 'temperature = "rates"', "temperature must be one of epochs"),
        ('title = "Learning rate and density"\n', "", "title is missing"),
        ("density = [0.05, 0.2, 0.8]\n", "", r"density is missing in \[smoke\]"),
        ("[smoke]", "[huge]", "'huge' is not known in the file: one of temperature, load"),
        ("[smoke]", "[smoke", "cannot be read"),
        ('load = "density"', 'load = ["density"]', "load must be one of epochs"),
        ('load = "density"', 'load = "epochs"', "load must be another axis than temperature"),
        ("density = [0.05, 0.2, 0.8]", "density = 0.05", r"density in \[smoke\] must be a list"),
        ("dense_seeds = [0, 1]", "dense_seeds = []", "dense_seeds in .* must be a list of 1 or"),
        ("dense_seeds = [0, 1]", 'dense_seeds = ["a"]', "dense_seeds in .* whole numbers"),
        ("retrain_seeds = [0, 1]", "retrain_seeds = [0]", "retrain_seeds in .* of 2 or more"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(
    folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    """The line names the file and what it lacks."""
    text = (folder / "rates.toml").read_text()
    if "rates" not in new:
        text = text.replace('temperature = "rate"', 'temperature = "epochs"')
        text = text.replace("rate = [0.02, 0.1, 0.5]", "epochs = [2, 4]")
    path = tmp_path / "wrong.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ThreeRegimeError, match=message) as raised:
        catalogue.load_experiment(str(path), "smoke")
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_missing_file_is_one_line(tmp_path: Path) -> None:
    """As any other wrong name."""
    with pytest.raises(ThreeRegimeError, match=r"none\.toml cannot be read"):
        catalogue.load_experiment(str(tmp_path / "none.toml"), "smoke")
