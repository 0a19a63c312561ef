"""Running notebooks with parameters, and the form in which they are stored."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import papermill
import pytest

from threeregime.book import notebooks, storage
from threeregime.errors import ThreeRegimeError

NOTEBOOKS = notebooks.notebook_paths()


def cell(source: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": f"made-{abs(hash(source)) % 10**8}",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.splitlines(keepends=True),
        "execution_count": None,
        "outputs": [],
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one small notebook that has parameters."""
    cells = [
        cell(
            "word: str = 'none'  # a text\n"
            "density: float = 0.5  # a fraction\n"
            "epochs: list[int] = [1, 2]  # some numbers\n"
            "fail: bool = False  # whether to fail\n",
            tags=("parameters",),
        ),
        cell("import sys\nprint(sys.executable)\nobject()"),
        cell("print([word, density, epochs, fail])\nassert not fail, 'asked to'"),
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    made = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "small.ipynb").write_text(json.dumps(made))
    return tmp_path


def outputs(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(o["text"]) for c in cells for o in c.get("outputs", []) if "text" in o]


@pytest.mark.notebook
def test_parameters_arrive_with_their_types(root: Path) -> None:
    texts = {"word": "7", "density": "0.1", "epochs": "8,16", "fail": "false"}
    path = notebooks.run_notebook("small", texts, root=root)
    assert path == root / "runs" / "small.ipynb"
    python, printed = outputs(path)
    assert printed.strip() == "['7', 0.1, [8, 16], False]"
    # not whatever a kernel spec named python3 would start
    assert python.strip() == sys.executable


def test_unknown_parameter_is_refused_with_those_there_are(root: Path) -> None:
    with pytest.raises(ThreeRegimeError, match=r"'densty'.*word, density, epochs, fail"):
        notebooks.run_notebook("small", {"densty": "0.1"}, root=root)
    assert not (root / "runs").exists()


def test_unknown_notebook_is_refused_with_those_there_are(root: Path) -> None:
    with pytest.raises(ThreeRegimeError, match=r"'smal' is not known: one of small"):
        notebooks.run_notebook("smal", {}, root=root)


@pytest.mark.notebook
def test_failed_run_names_the_notebook_that_shows_it(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "failed.ipynb"
    with pytest.raises(
        ThreeRegimeError, match=r"AssertionError: asked to.*failed\.ipynb"
    ) as caught:
        notebooks.run_notebook("small", {"fail": True}, out, root=root)
    assert "\n" not in str(caught.value)
    assert "asked to" in out.read_text()


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        ("int", "3", 3),
        ("float", "1e-4", 1e-4),
        ("bool", "True", True),
        ("bool", "no", False),
        ("str", "digits", "digits"),
        ("None", "left alone", "left alone"),
        ("list[float]", "0.05,0.1", [0.05, 0.1]),
        ("list[int]", "[5, 6]", [5, 6]),
        ("list[str]", "a, 'b'", ["a", "b"]),
        ("list[float]", "", []),
        ("float", 0.5, 0.5),
    ],
)
def test_texts_become_values(annotation: str, text: object, value: object) -> None:
    made = notebooks.convert("x", annotation, text)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        ("int", "3.5"),
        ("float", "a"),
        ("bool", "maybe"),
        ("list[int]", "1,b"),
        ("list[int]", "[[1], [2]]"),
        ("list[int]", "[[1, 2]]"),
        ("int", "9" * 30),
        ("int", "9" * 5000),
    ],
)
def test_wrong_texts_are_refused(annotation: str, text: str) -> None:
    with pytest.raises(ThreeRegimeError, match="x = "):
        notebooks.convert("x", annotation, text)


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_committed_notebooks_are_stored_with_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert storage.normalize(text) == text, "`threeregime book` stores it"
    code = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
    assert all(c["execution_count"] for c in code)
    assert not any(o["output_type"] == "error" for c in code for o in c["outputs"])


def test_what_a_machine_says_is_not_stored() -> None:
    """A machine that compiles the kernels for its first net says so on standard error."""
    text = NOTEBOOKS["landscapes"].read_text(encoding="utf-8")
    notebook = json.loads(text)
    for ran in (c for c in notebook["cells"] if c["cell_type"] == "code"):
        said = {"output_type": "stream", "name": "stderr", "text": ["threeregime: compiling"]}
        ran["outputs"].insert(0, said)
    assert storage.normalize(json.dumps(notebook)) == text


@pytest.mark.parametrize("path", NOTEBOOKS.values(), ids=NOTEBOOKS)
def test_every_parameter_can_be_set_and_says_what_it_is(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    assert "parameters" in code[0]["metadata"].get("tags", [])
    assigned = ast.parse("".join(code[0]["source"])).body
    names = [line.target.id for line in assigned if isinstance(line, ast.AnnAssign)]  # type: ignore[union-attr]
    known = papermill.inspect_notebook(str(path))
    assert list(known) == names
    assert len(names) == len(assigned)
    for parameter in known.values():
        assert parameter["help"]
        kind = parameter["inferred_type_name"]
        default = ast.literal_eval(parameter["default"])
        notebooks.convert(parameter["name"], kind, default if default == [] else str(default))
