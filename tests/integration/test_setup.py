"""The set-up keeps its word: pins, lock, citation, and the commands that the README names."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from threeregime._paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "book").glob("*.md"))]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!+]*)( ; .+)?")


def pins(name: str) -> dict[str, str]:
    """Pinned versions by package; fails on a line that pins nothing."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [(line, PIN.fullmatch(line)) for line in lines if line.split("#")[0].strip()]
    loose = [line for line, match in found if not match]
    assert not loose, f"{name} does not pin exactly: {loose}"
    return {match[1].lower(): match[2] for _, match in found if match}


def commands(program: str, *texts: str) -> list[list[str]]:
    """Words of every line of the texts' shell blocks that calls a program, comments left out."""
    blocks = re.findall(r"```sh\n(.*?)```", "\n".join(texts), re.DOTALL)
    blocks = [re.sub(r"\\\n\s*", "", block) for block in blocks]  # lines that go on
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    return [line[1:] for line in lines if line and line[0] == program]


# --- what is installed ----------------------------------------------------------------------------


def test_lock_holds_every_pin() -> None:
    wanted, locked = pins("requirements.txt"), pins("requirements.lock")
    assert len(wanted) > 20
    assert wanted.items() <= locked.items(), "run `make lock`"


@pytest.mark.parametrize(("package", "pinned"), pins("requirements.txt").items())
def test_installed_is_what_is_pinned(package: str, pinned: str) -> None:
    # a build may carry a local label, as in 2.11.0+cpu
    assert version(package).partition("+")[0] == pinned, "run `make install`"


def load_installer(root: Path) -> ModuleType:
    """The installation script, for a project in another folder."""
    spec = importlib.util.spec_from_file_location("installer", ROOT / "tools" / "install.py")
    assert spec
    assert spec.loader
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT, module.VENV, module.LOCK = root, root / ".venv", root / "requirements.lock"
    module.STAMP, module.LOG = module.VENV / ".installed", module.VENV / "install.log"
    return module


@pytest.fixture
def installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script in an empty project, its pip only writing down what it was asked for."""
    (tmp_path / ".venv").mkdir()
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("")
    module: Any = load_installer(tmp_path)
    module.asked = []
    monkeypatch.setattr(module.venv, "create", lambda path, **how: None)
    monkeypatch.setattr(module, "pip", lambda *words: module.asked.append(words))
    monkeypatch.setattr(module, "usable", lambda: True)
    return module


def test_second_call_installs_nothing(installer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert installer.main() == 0
    assert len(installer.asked) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert installer.main() == 0
    assert len(installer.asked) == 2
    assert not capsys.readouterr().out


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_installs_again(installer: Any, name: str) -> None:
    installer.main()
    (installer.ROOT / name).write_text("changed")
    installer.main()
    assert len(installer.asked) == 4


def test_failure_shows_the_log_and_is_not_taken_for_done(
    installer: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*words: str) -> None:
        installer.LOG.write_text("ERROR: no such version\n")
        raise subprocess.CalledProcessError(1, "pip")

    with monkeypatch.context() as patch:
        patch.setattr(installer, "pip", fail)
        assert installer.main() == 1
    assert "no such version" in capsys.readouterr().err
    assert installer.main() == 0
    assert installer.asked


def test_cut_off_starts_afresh(installer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(installer.venv, "create", lambda path, **how: made.append(how["clear"]))
    installer.main()
    assert not made
    installer.STAMP.unlink()
    installer.main()
    assert made == [True]


def test_moved_environment_is_not_usable(tmp_path: Path) -> None:
    # commands in .venv/bin carry the path they were installed at
    module: Any = load_installer(tmp_path)
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    module.PYTHON = folder / "python"
    module.PYTHON.symlink_to(sys.executable)
    (folder / "pip").write_text("#!/elsewhere/.venv/bin/python\n")
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("home = /\n")
    assert not module.usable()


def test_remains_of_an_environment_are_not_usable(tmp_path: Path) -> None:
    # without pyvenv.cfg, .venv/bin/python is the machine's Python: nothing may be installed there
    module: Any = load_installer(tmp_path)
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    module.PYTHON = folder / "python"
    module.PYTHON.symlink_to(Path(sys.executable).resolve())
    (folder / "pip").write_text(f"#!{module.PYTHON}\n")
    assert not module.usable()


# --- which Python ---------------------------------------------------------------------------------


def find_python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the search where the path holds one folder and there is no .venv."""
    return subprocess.run(
        ["/bin/sh", str(ROOT / "tools" / "find_python.sh"), *words],
        cwd=folder,
        env={**os.environ, "PATH": str(folder), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_no_python_is_one_line(tmp_path: Path) -> None:
    stub = tmp_path / "python3.11"  # as pyenv leaves one: it exists and fails
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    done = find_python(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.11 or 3.12" in done.stderr


def test_named_python_is_taken_or_refused(tmp_path: Path) -> None:
    assert find_python(tmp_path, sys.executable).stdout.strip() == sys.executable
    refused = find_python(tmp_path, "/bin/false")
    assert refused.returncode == 1
    assert "/bin/false is not a Python" in refused.stderr


# --- what is written about it ---------------------------------------------------------------------


def test_citation_names_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys()
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    paper = cited["preferred-citation"]
    assert f"title     = {{{paper['title']}}}" in README
    authors = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    assert f"{{{' and '.join(authors)}}}" in README
    assert paper["url"] in README


def test_make_targets_exist() -> None:
    named = commands("make", README, CONTRIBUTING)
    named += [line.split()[1:] for line in re.findall(r"`(make [^`]+)`", README + CONTRIBUTING)]
    wanted = {word for words in named for word in words if "=" not in word}
    assert {"book", "test"} <= wanted
    assert wanted <= set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))


def test_links_and_paths_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README + CONTRIBUTING)
    quoted = re.findall(r"`((?:\w+/)+[\w.]*)`", README + CONTRIBUTING)
    made_by_hand = ("train/", "test/")  # the layout of a folder data set
    paths = [p for p in links + quoted if not p.startswith("http") and p not in made_by_hand]
    assert len(paths) > 8
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize(
    "words", commands("threeregime", README, CONTRIBUTING, *PAGES), ids=" ".join
)
def test_commands_are_accepted(words: list[str]) -> None:
    from typer.main import get_command

    from threeregime import cli
    from threeregime.book import notebook_paths
    from threeregime.experiments import catalogue

    group: Any = get_command(cli.app)
    name, *rest = words
    assert name in group.commands
    # Parsed, with every flag and value checked, but not called.
    given = group.commands[name].make_context(name, list(rest)).params
    if name == "sweep" and not given["experiment"].endswith(".toml"):  # a reader's own file
        chosen = catalogue.load_experiment(given["experiment"], given["scale"])
        chosen.with_fields(cli.parse_fields(given["set_"] or [])).with_values(
            **cli.parse_cells(given["only"])
        )
        assert not given["time_budget"] or cli.parse_duration(given["time_budget"])
    if name == "run":
        import papermill

        known = papermill.inspect_notebook(notebook_paths()[given["notebook"]])
        assert {cli.split_pair(pair)[0] for pair in given["parameter"] or []} <= known.keys()


def test_every_sub_command_is_in_the_readme() -> None:
    from threeregime import cli

    known = {c.name or getattr(c.callback, "__name__", "") for c in cli.app.registered_commands}
    told = {words[0] for words in commands("threeregime", README)} | {"book"}
    assert known == told


def test_readme_names_every_scale() -> None:
    from threeregime.experiments import catalogue

    scales = {
        scale for name in catalogue.list_experiments() for scale in catalogue.list_scales(name)
    }
    assert not [scale for scale in scales if f"`{scale}`" not in README]


def test_ci_script_is_sound() -> None:
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "run")], check=True)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
