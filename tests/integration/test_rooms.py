"""The rooms of the package keep to their floors; importing the package is quick."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from threeregime._paths import PACKAGE, ROOT

LAYERS, THIN, CIRCLES = (
    "A room imports only rooms on lower floors",
    "Training, pruning and metrics of fleets stand alone",
    "No circle inside a room",
)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Folder with a copy of the package's code and its contracts."""
    code = shutil.ignore_patterns("__pycache__", "*.toml", "*.csv")
    shutil.copytree(PACKAGE, tmp_path / "threeregime", ignore=code)
    shutil.copyfile(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def broken(folder: Path) -> set[str]:
    """Return the names of the contracts that the package in a folder breaks."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Contracts: " in done.stdout, done.stderr
    found = {name for name in (LAYERS, THIN, CIRCLES) if f"{name} BROKEN" in done.stdout}
    assert bool(found) == bool(done.returncode)
    return found


def test_the_package_keeps_its_contracts(copy: Path) -> None:
    assert broken(copy) == set()


@pytest.mark.parametrize(
    ("module", "line", "contracts"),
    [
        ("metrics/functional.py", "import threeregime.sweep.plan", {LAYERS, THIN}),
        ("data/images.py", "import pandas", {THIN}),
        ("fleet/device.py", "def f():\n    from distributed.system import MEMORY_LIMIT", {THIN}),
        ("training/optimizers.py", "from threeregime import advise", {LAYERS, THIN}),
        ("results/tables.py", "import threeregime.analysis.cells", {LAYERS}),
        ("models/layers.py", "import threeregime.models.registry", {CIRCLES}),
        ("new.py", "", {LAYERS}),
    ],
)
def test_a_forbidden_import_breaks_them(
    copy: Path, module: str, line: str, contracts: set[str]
) -> None:
    with (copy / "threeregime" / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert broken(copy) == contracts


def test_importing_the_package_is_quick() -> None:
    code = (
        "import time; begin = time.process_time(); import threeregime; "
        "print(time.process_time() - begin)"
    )
    times = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(3)
    ]
    assert min(times) < 0.2
