"""Notebooks run again when something that they rest on has changed, and only then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from threeregime._paths import PACKAGE, PROTOCOLS, RESULTS
from threeregime.book import execution
from threeregime.book.kernel_server import KernelServer, environment
from threeregime.errors import ThreeRegimeError

# What the notebooks of the made-up project do. Each reads one thing that no other one reads.
NOTEBOOKS = {
    "module": "import helper\nprint(helper.VALUE)",
    "table": "import pyarrow.parquet as pq\n"
    "print(pq.read_table('../results/study/small/nets.parquet').to_pydict())",
    "text": "from pathlib import Path\nprint(Path('../settings.toml').read_text())",
    "folder": "from pathlib import Path\nprint(sorted(p.name for p in Path('../parts').iterdir()))",
    "widget": "import ipywidgets as widgets\n"
    "one, two = widgets.IntSlider(1), widgets.IntSlider(2)\n"
    "widgets.jslink((one, 'value'), (two, 'value'))\n"
    "print(object())\n"
    "widgets.VBox([two, one])",
}


@pytest.fixture(scope="module")
def server() -> Iterator[KernelServer | None]:
    if sys.platform != "linux":
        yield None
        return
    with KernelServer() as running:
        yield running


def write_notebook(path: Path, *sources: str) -> None:
    path.parent.mkdir(exist_ok=True)
    cells = [nbformat.v4.new_markdown_cell("# A notebook")]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, path)


def write_table(root: Path, value: int) -> None:
    path = root / "results" / "study" / "small" / "nets.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"value": [value]}).to_parquet(path)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def printed(root: Path, name: str) -> str:
    cells = json.loads((root / "notebooks" / f"{name}.ipynb").read_text())["cells"]
    outputs = [o for cell in cells for o in cell.get("outputs", [])]
    return "".join(part for o in outputs for part in o.get("text", []))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, server: KernelServer | None) -> Path:
    """A project in which every notebook has run once; each test leaves it so."""
    root = tmp_path_factory.mktemp("project").resolve()
    for name, source in NOTEBOOKS.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", source)
    (root / "notebooks" / "helper.py").write_text("from helped import VALUE\n")
    (root / "notebooks" / "helped.py").write_text("VALUE = 1\n")
    (root / "settings.toml").write_text("one = 1\n")
    (root / "parts").mkdir()
    write_table(root, 1)
    assert execution.run_all(root, server=server) == sorted(NOTEBOOKS)
    return root


def test_nothing_runs_when_nothing_changed(project: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*")}
    # without a server: none is started
    assert execution.run_all(project) == []
    assert {path: path.stat().st_mtime_ns for path in project.rglob("*")} == before


def test_changed_table_reruns_the_notebook_that_reads_it(
    project: Path, server: KernelServer | None
) -> None:
    write_table(project, 2)
    assert execution.run_all(project, server=server) == ["table"]
    assert "[2]" in printed(project, "table")
    assert execution.run_all(project, server=server) == []


def test_changed_module_reruns_the_notebook_that_imports_it_indirectly(
    project: Path, server: KernelServer | None
) -> None:
    (project / "notebooks" / "helped.py").write_text("VALUE = 'two'\n")
    assert execution.run_all(project, server=server) == ["module"]
    assert printed(project, "module") == "two\n"


def test_changed_file_reruns_the_notebook_that_opens_it(
    project: Path, server: KernelServer | None
) -> None:
    (project / "settings.toml").write_text("two = 2\n")
    assert execution.run_all(project, server=server) == ["text"]
    assert "two = 2" in printed(project, "text")


def test_new_file_reruns_the_notebook_that_lists_its_folder(
    project: Path, server: KernelServer | None
) -> None:
    (project / "parts" / "new").touch()
    assert execution.run_all(project, server=server) == ["folder"]


def test_removed_table_is_missed(project: Path, server: KernelServer | None) -> None:
    path = project / "results" / "study" / "small" / "nets.parquet"
    content = path.read_bytes()
    stored = (project / "notebooks" / "table.ipynb").read_bytes()
    path.unlink()
    with pytest.raises(ThreeRegimeError, match=r"^table failed \(FileNotFoundError: .*\); see "):
        execution.run_all(project, server=server)
    assert (project / "notebooks" / "table.ipynb").read_bytes() == stored
    # a failed notebook runs again, though nothing else has changed
    path.write_bytes(content)
    assert execution.run_all(project, server=server) == ["table"]


def test_prose_may_change_but_neither_code_nor_outputs(
    project: Path, server: KernelServer | None
) -> None:
    path = project / "notebooks" / "text.ipynb"
    path.write_text(path.read_text().replace("# A notebook", "# Another title"))
    assert execution.run_all(project, server=server) == []
    path.write_text(path.read_text().replace("print(", "print(1, "))
    assert execution.run_all(project, server=server) == ["text"]
    assert "Another title" in path.read_text()
    stored = path.read_bytes()
    path.write_bytes(stored.replace(b"1 two", b"7 two"))
    assert execution.run_all(project, server=server) == ["text"]
    assert path.read_bytes() == stored


def test_other_python_or_libraries_rerun_all(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "requirements.lock").write_text("torch==0\n")
    names = [path.stem for path in execution.Runs(project).outdated()]
    assert sorted(names) == sorted(NOTEBOOKS)
    (project / "requirements.lock").unlink()
    assert execution.Runs(project).outdated() == []
    monkeypatch.setattr(sys, "version", "0.0")
    assert len(execution.Runs(project).outdated()) == len(NOTEBOOKS)


def test_damaged_record_reruns_all(project: Path) -> None:
    path = project / execution.BUILD / "executed.json"
    content = path.read_bytes()
    for damage in (b"{", b"[]", b'{"text": {"digest": ""}}'):
        path.write_bytes(damage)
        assert len(execution.Runs(project).outdated()) == len(NOTEBOOKS)
    path.write_bytes(content)
    assert execution.Runs(project).outdated() == []


def test_equal_outputs_are_equal_bytes(project: Path, server: KernelServer | None) -> None:
    path = project / "notebooks" / "widget.ipynb"
    first = path.read_bytes()
    assert b"widget-state" in first
    assert b"object at 0x0" in first
    execution.Runs(project).forget("widget")
    assert execution.run_all(project, server=server) == ["widget"]
    assert path.read_bytes() == first


def test_other_programs_make_a_notebook_rest_on_everything(
    tmp_path: Path, server: KernelServer | None
) -> None:
    root = tmp_path.resolve()
    source = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''], check=True)"
    write_notebook(root / "notebooks" / "spawns.ipynb", source)
    assert execution.run_all(root, server=server) == ["spawns"]
    assert execution.Runs(root).outdated() == []
    write_table(root, 1)
    assert len(execution.Runs(root).outdated()) == 1


def test_shipped_tables_and_experiments_are_recorded(
    tmp_path: Path, server: KernelServer | None
) -> None:
    root = tmp_path.resolve()
    source = (
        "from threeregime import load_experiment, load_results\n"
        "load_results(load_experiment('figure_07', 'clutter'))"
    )
    write_notebook(root / "notebooks" / "loads.ipynb", source)
    assert execution.run_all(root, server=server) == ["loads"]
    record = json.loads((root / execution.BUILD / "executed.json").read_text())
    inputs = set(record["loads"]["inputs"])
    tables = {str(path) for path in (RESULTS / "figure_07" / "clutter").glob("*.*")}
    assert len(tables) > 3
    assert tables <= inputs
    assert str(PROTOCOLS / "figure_07.toml") in inputs
    assert str(PACKAGE / "results" / "tables.py") in inputs
    assert not [key for key in inputs if "figure_02" in key or "/figures/" in key]
    assert execution.EVERYTHING not in inputs


def test_what_changes_during_a_run_is_not_taken_for_what_was_read(
    tmp_path: Path, server: KernelServer | None
) -> None:
    root = tmp_path.resolve()
    (root / "value.txt").write_text("1")
    source = (
        "from pathlib import Path\nprint(Path('../value.txt').read_text())\n"
        # another program writes to it meanwhile
        "import os\nos.rename('../new.txt', '../value.txt')"
    )
    write_notebook(root / "notebooks" / "reads.ipynb", source)
    time.sleep(0.02)
    (root / "new.txt").write_text("2")
    os.utime(root / "new.txt", (time.time() + 1, time.time() + 1))
    assert execution.run_all(root, server=server) == ["reads"]
    assert [path.stem for path in execution.Runs(root).outdated()] == ["reads"]


def test_lines_show_what_is_left_and_all_failures_are_counted(
    tmp_path: Path, server: KernelServer | None
) -> None:
    root = tmp_path.resolve()
    for name, source in {"a": "1 / 0", "b": "import os\nos._exit(3)", "c": "print('c')"}.items():
        write_notebook(root / "notebooks" / f"{name}.ipynb", source)
    lines: list[str] = []
    with pytest.raises(ThreeRegimeError, match=r"failed .* \(and 1 more failed\)$") as caught:
        execution.run_all(root, lines.append, server)
    assert "\n" not in str(caught.value)
    assert lines[0] == "3 notebooks to run, 2 at a time"
    assert [line[:5] for line in lines[1:]] == ["[1/3]", "[2/3]", "[3/3]"]
    assert sorted(line[6:].split()[0] for line in lines[1:]) == ["a", "b", "c"]
    assert sum(line.endswith(" failed") for line in lines) == 2
    assert sum(line.endswith(" s") for line in lines) == 1
    assert {path.stem for path in execution.Runs(root).outdated()} == {"a", "b"}


def test_interrupt_keeps_what_was_done_and_ends_the_kernels(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    write_notebook(root / "notebooks" / "quick.ipynb", "print('done')")
    slow = "import os, time\nfrom pathlib import Path\nPath('../pid').write_text(str(os.getpid()))"
    write_notebook(root / "notebooks" / "slow.ipynb", f"{slow}\ntime.sleep(600)")
    before = (root / "notebooks" / "slow.ipynb").read_bytes()
    code = "import pathlib, signal, sys\nfrom threeregime.book import run_all as run\n"
    # Where the tests run in the background of a script, interrupts are ignored from the start.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "run(pathlib.Path(sys.argv[1]))"
    with subprocess.Popen(
        [sys.executable, "-c", code, root], env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "to run" in process.stdout.readline()
        assert "quick" in process.stdout.readline()
        wait_until((root / "pid").exists)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(60) != 0
        finally:
            process.kill()  # else one that does not end would keep the tests waiting
    pid = int((root / "pid").read_text())
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
    assert (root / "notebooks" / "slow.ipynb").read_bytes() == before
    assert [path.stem for path in execution.Runs(root).outdated()] == ["slow"]
