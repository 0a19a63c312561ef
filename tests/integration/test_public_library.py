"""The library in a few lines: those of the README train, prune, retrain and measure a fleet."""

from __future__ import annotations

import ast
import re

import pytest

import threeregime
from threeregime.book.notebooks import ROOT


@pytest.fixture(scope="module")
def code() -> str:
    """The code of the README's section on the library."""
    section = (ROOT / "README.md").read_text().split("\n## The library\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```", section, flags=re.S | re.M)
    return block


def test_at_most_fifteen_lines_of_the_top_level_alone(code: str) -> None:
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    imported = [
        (node.module if isinstance(node, ast.ImportFrom) else None, [a.name for a in node.names])
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    ((module, names),) = imported
    if module is None:
        assert names == ["threeregime"]
    else:
        assert module == "threeregime"
        assert set(names) <= set(threeregime.__all__)


def test_the_lines_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), scope)
    printed = capsys.readouterr().out
    numbers = [float(number) for number in re.findall(r"-?\d+\.\d+", printed)]
    assert len(numbers) >= 2, printed
    assert all(-1 <= number <= 1 for number in numbers)
