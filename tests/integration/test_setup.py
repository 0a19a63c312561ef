"""The set-up keeps its word: pins, lock, citation, and the commands that the README names."""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from threeregime._paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "book").glob("*.md"))]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PIN = re.compile(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.!+]*)( ; .+)?")


def pins(name: str) -> dict[str, str]:
    """Pinned versions by package; fails on a line that pins nothing."""
    text = re.sub(r" \\\n    --hash=sha256:[0-9a-f]{64}", "", (ROOT / name).read_text("utf-8"))
    lines = [line.split("#")[0].rstrip() for line in text.splitlines()]
    found = [(line, PIN.fullmatch(line)) for line in lines if line]
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


def test_every_pin_of_the_lock_has_the_hashes_of_its_files() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = re.findall(r"^[\w.-]+==.*$", text, re.MULTILINE)
    assert len(pinned) >= len(pins("requirements.lock")) > 200
    assert all(line.endswith(" \\") for line in pinned)
    assert "--require-hashes -r requirements.lock" in MAKEFILE


@pytest.mark.parametrize(("package", "pinned"), pins("requirements.txt").items())
def test_installed_is_what_is_pinned(package: str, pinned: str) -> None:
    # a build may carry a local label, as in 2.11.0+cpu
    assert version(package).partition("+")[0] == pinned, "run `make install`"


def test_pyproject_asks_for_what_is_pinned() -> None:
    pinned = pins("requirements.txt")
    extras = PROJECT["optional-dependencies"]
    asked = [Requirement(r) for r in [*PROJECT["dependencies"], *itertools.chain(*extras.values())]]
    named = {r.name: r for r in asked if r.name != PROJECT["name"]}
    assert named.keys() == pinned.keys()
    assert not [str(r) for r in named.values() if not r.specifier.contains(pinned[r.name])]
    assert {"book", "dask", "translation", "test"} == extras.keys()


# --- the installation -----------------------------------------------------------------------------

# Stands for a Python that fits, and for uv: writes down what it is asked for, and makes a .venv of
# itself.
PYTHON = """#!/bin/sh
echo "$@" >>asked
case "$*" in
*/dev/stdin*) cp "$0" .venv/bin/uv ;;
"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"pip install"*) echo "no such version"; [ ! -f broken ] ;;
esac
"""


class Project:
    """A folder with our Makefile, whose pip and uv only write down what they were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml"):
            shutil.copyfile(ROOT / name, folder / name)
        self.python = executable(folder / "python", PYTHON)

    def make(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``make install`` with a path that holds no Python."""
        tools = self.folder / "tools"
        tools.mkdir(exist_ok=True)
        for name in ("sh", "cat", "rm", "touch", "tail", "mkdir", "cp", "sed", "sleep"):
            if not (tools / name).exists():
                (tools / name).symlink_to(shutil.which(name) or "/bin/false")
        return subprocess.run(
            [shutil.which("make") or "make", "install", *words],
            cwd=self.folder,
            env={"PATH": str(tools), "HOME": str(self.folder), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def asked(self) -> list[str]:
        """Return what Python and uv were called for since the last time: venv and pip alone."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [
            re.sub(r".*(venv|pip) .*?(--clear|-r|-e).*", r"\1 \2", line)
            for line in lines
            if line.startswith(("-m", "-I", "pip"))
        ]


def executable(path: Path, text: str) -> Path:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
    return path


INSTALL = ["pip -r", "pip -r", "pip -e"]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    if not shutil.which("make"):
        pytest.skip("no make")
    return Project(tmp_path / "project")


@pytest.fixture
def installed(project: Project) -> Project:
    done = project.make(f"PYTHON={project.python}")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert project.asked() == ["venv --clear", *INSTALL]
    return project


def test_second_call_installs_nothing(installed: Project) -> None:
    assert installed.make().returncode == 0
    assert installed.asked() == []


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_a_change_installs_again_into_the_same_environment(installed: Project, name: str) -> None:
    later = time.time() + 5
    os.utime(installed.folder / name, (later, later))
    assert installed.make().returncode == 0
    assert installed.asked() == INSTALL


def test_failure_shows_the_log_and_is_tried_again(project: Project) -> None:
    (project.folder / "broken").touch()
    failed = project.make(f"PYTHON={project.python}")
    assert failed.returncode != 0
    assert "no such version" in failed.stderr
    assert ".venv/install.log" in failed.stderr
    assert project.asked() == ["venv --clear", *INSTALL[:2]]
    (project.folder / "broken").unlink()
    assert project.make().returncode == 0
    assert project.asked() == INSTALL


def test_cut_off_starts_afresh(installed: Project) -> None:
    (installed.folder / ".venv" / ".installed").unlink()
    assert installed.make(f"PYTHON={installed.python}").returncode == 0
    assert installed.asked() == ["venv --clear", *INSTALL]


def test_moved_environment_is_made_anew(installed: Project, tmp_path: Path) -> None:
    # commands in .venv/bin carry the path they were installed at
    installed.folder = installed.folder.rename(tmp_path / "moved")
    installed.python = installed.folder / "python"
    shutil.rmtree(installed.folder / "tools")
    assert installed.make(f"PYTHON={installed.python}").returncode == 0
    assert installed.asked() == ["venv --clear", *INSTALL]


def test_no_python_is_one_line(project: Project) -> None:
    (project.folder / "tools").mkdir()
    executable(project.folder / "tools" / "python3.11", "#!/bin/sh\nexit 127\n")  # pyenv's stub
    done = project.make()
    assert done.returncode != 0
    assert len([line for line in done.stderr.splitlines() if not line.startswith("make")]) == 1
    assert "No Python 3.11 or 3.12 with venv" in done.stderr


def test_a_python_that_does_not_fit_is_refused(project: Project) -> None:
    wrong = executable(project.folder / "wrong", "#!/bin/sh\nexit 1\n")
    done = project.make(f"PYTHON={wrong}")
    assert done.returncode != 0
    assert f"among {wrong}:" in done.stderr


def test_a_python_of_pyenv_is_found(project: Project) -> None:
    versions = project.folder / ".pyenv" / "versions" / "3.12.9" / "bin"
    versions.mkdir(parents=True)
    executable(versions / "python", PYTHON)
    assert project.make().returncode == 0
    assert project.asked() == ["venv --clear", *INSTALL]


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
    assert wanted <= set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


def test_readme_installs_the_pinned_pytorch() -> None:
    line = next(line for line in README.splitlines() if line.startswith("pip install torch=="))
    named = dict(re.findall(r"(torch\w*)==(\S+)", line))
    assert named == {name: pins("requirements.txt")[name] for name in ("torch", "torchvision")}


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
