"""The command line: its output, and its errors."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from tests.helpers import comparing
from threeregime import _files, book, claims, cli, sweep
from threeregime._option_values import parse_cells, parse_duration, parse_fields, parse_seeds
from threeregime.book import notebooks
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.results import load_results, tables
from threeregime.sweep import dask_workers, jobs


class Outcome:
    """Exit status and output of a command."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


class Runner:
    """Run the command in this process, since starting another one takes seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, line: str, *words: str | Path) -> Outcome:
        argv = ["threeregime", *line.split(), *map(str, words)]
        self.monkeypatch.setattr(sys, "argv", argv)
        self.capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main()
        status = caught.value.code or 0
        assert isinstance(status, int)
        return Outcome(status, *self.capsys.readouterr())


ONLY_797 = "batch_size = 100000 is not allowed: digits has 797 training images"
SMOKE = "sweep figure_02 --scale smoke --device cpu --dry-run"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sweep figure_2", "'figure_2' is not known: one of diagnostics, figure_02"),
        ("sweep ../figure_02", "is not known"),
        ("sweep figure_02 --scale huge", "'huge' is not allowed: figure_02 has smoke, clutter"),
        (f"{SMOKE} --only width=2", "'width' is not an axis of figure_02: epochs or density"),
        (f"{SMOKE} --only density", "'density' is not of the form NAME=VALUE"),
        (f"{SMOKE} --only density=", "'density=' is not of the form NAME=VALUE"),
        (f"{SMOKE} --only density=some", "density = 'some' is not allowed: a number"),
        (f"{SMOKE} --only density=5", "pruning.density = 5.0 is not allowed: a fraction in (0, 1]"),
        (f"{SMOKE} --only density=0", "a fraction in (0, 1]"),
        (f"{SMOKE} --only density=nan", "density = nan is not allowed: a number"),
        (f"{SMOKE} --only epochs=2.5", "epochs = 2.5 is not allowed: a whole number"),
        (f"{SMOKE} --only epochs=inf", "epochs = inf is not allowed: a whole number"),
        (f"{SMOKE} --only epochs=5", "dense.stop = 5 is not allowed: an epoch from 1 to 4"),
        (f"{SMOKE} --seeds 3", "'3' is not allowed: DENSExRETRAINING, e.g. 3x3"),
        (f"{SMOKE} --seeds x3", "DENSExRETRAINING"),
        (f"{SMOKE} --seeds -1x3", "DENSExRETRAINING"),
        (f"{SMOKE} --seeds 0x3", "at least 1 dense and 2 retraining"),
        (f"{SMOKE} --seeds 3x1", "at least 1 dense and 2 retraining"),
        (f"{SMOKE} --time-budget soon", "'soon' is not allowed: e.g. 90s, 9m or 2h"),
        (f"{SMOKE} --time-budget 9", "90s, 9m or 2h"),
        (f"{SMOKE} --time-budget 0m", "90s, 9m or 2h"),
        (f"{SMOKE} --time-budget -9m", "90s, 9m or 2h"),
        (f"{SMOKE} --set width=2", "'width' is not of the form SECTION.FIELD"),
        (f"{SMOKE} --set net.width", "is not of the form NAME=VALUE"),
        (f"{SMOKE} --set net.width=wide", "net.width = 'wide' is not allowed: a finite number"),
        (f"{SMOKE} --set net.depth=21", "net.depth = 21 is not allowed"),
        (f"{SMOKE} --set net.height=2", "field net.height = 2 is not allowed"),
        (f"{SMOKE} --set house.width=2", "section = 'house' is not allowed"),
        (f"{SMOKE} --set data.name=mnist", "data.name = 'mnist' is not allowed"),
        (f"{SMOKE} --set data.name=folder:no/such", "no/such/train is missing"),
        (f"{SMOKE} --set dense.batch_size=800", "batch_size = 800 is not allowed"),
        (f"{SMOKE} --set retraining.batch_size=800", "digits has 797 training images"),
        (f"{SMOKE} --fleet 0", "1 or more"),
        (f"{SMOKE} --fleet few", "--fleet"),
        (f"{SMOKE} --workers -1", "0 or more"),
        (f"{SMOKE} --workers two", "--workers"),
        (f"{SMOKE} --workers 2 --dask tcp://host:8786", "not allowed with a Dask cluster"),
        (f"{SMOKE} --only self=1", "'self' is not an axis of figure_02: epochs or density"),
        (f"{SMOKE} --only density={'9' * 500}", "density = inf is not allowed: a number"),
        (f"{SMOKE} --seeds 999999999x2", "at most 100000 can be planned"),
        (f"{SMOKE} --seeds {'9' * 5000}x2", "DENSExRETRAINING"),
        (f"{SMOKE} --time-budget {'9' * 5000}h", "90s, 9m or 2h"),
        (f"{SMOKE} --set pruning.density=0.5", "pruning.density is an axis of figure_02"),
        (f"{SMOKE} --set dense.epochs={'9' * 5000}", "dense.epochs = '999"),
        (f"{SMOKE} --set dense.epochs={10**30}", "is not allowed: a whole number"),
        (f"{SMOKE} --set dense.lr=1{'0' * 400}", "is not allowed: a finite number"),
        (f"{SMOKE} --set net.width={'[' * 5000}", "is not allowed: a finite number"),
        (f"{SMOKE} --set dense.milestones=[[1]]", "is not allowed: a list of whole numbers"),
        (f"{SMOKE} --set dense.epochs=true", "dense.epochs = True is not allowed: a whole number"),
        (f"{SMOKE} --set net.width=900", "takes about"),
        (f"{SMOKE} --set net.width=1e12", "net.width = 1000000000000.0 is not allowed"),
        (f"{SMOKE} --set net.depth=60000002", "net.depth = 60000002 is not allowed: at most"),
        (f"{SMOKE} --set data.crop=1000000", "data.crop = 1000000 is not allowed: less than"),
        (f"{SMOKE} --device cpu:1", "device = 'cpu:1' is not available: use cpu or auto"),
        (f"{SMOKE} --device meta", "device = 'meta' is not available: use cpu or auto"),
        (f"{SMOKE} --device tpu", "device = 'tpu' is not available: use cpu or auto"),
        (f"{SMOKE} --device cuda:99", "device = 'cuda:99' is not available: use cpu or auto"),
        (f"{SMOKE} --colour red", "--colour"),
        (f"{SMOKE} extra", "extra"),
        *(
            (f"sweep {name} --scale smoke --device cpu --dry-run {given}", words)
            for name, given, words in [
                ("figure_06", "--set dense.rho=-1", "an axis of figure_06: choose its values by"),
                ("figure_06", "--only rho=-1", "dense.rho = -1.0 is not allowed: 0 or more"),
                ("figure_07", "--only batch_size=0", "dense.batch_size = 0 is not allowed"),
                ("figure_07", "--only batch_size=100000", ONLY_797),
                ("figure_07", "--only batch_size=16,batch_size=798", "batch_size = 798 is not"),
                ("figure_15", "--only depth=21", "depth = 21 is not allowed: a PreResNet has 6n+2"),
                ("figure_15", "--only depth=20.5", "depth = 20.5 is not allowed: a whole number"),
                ("figure_03_width", "--only width=0", "width = 0.0 is not allowed: a factor above"),
                ("figure_02", "--set net.width=0", "width = 0.0 is not allowed: a factor above 0"),
                ("figure_08", "--set net.depth=15", "depth = 15 is not allowed: a DenseNet has 3n"),
                ("figure_09", "--set net.depth=12", "a VGG has 11, 13, 16, 19 layers"),
                ("figure_14", "--set net.depth=0", "a Transformer has 1 or more layers in its"),
                ("figure_14", "--set data.crop=4", "data.crop = 4"),
                ("figure_02", "--only rho=1", "'rho' is not an axis of figure_02: epochs or"),
            ]
        ),
        ("run figure_99", "notebook 'figure_99' is not known: one of"),
        (
            "run figure_02 -p densities=[[0.07],[0.3]]",
            "densities = '[[0.07],[0.3]]' is not allowed",
        ),
        ("run figure_02 -p epochs", "'epochs' is not of the form NAME=VALUE"),
        ("sweep figure_99", "experiment 'figure_99' is not known: one of diagnostics, figure_02"),
        ("sweep", "experiment"),
        ("sweeep figure_02", "sweeep"),
    ],
)
def test_a_mistake_is_answered_in_one_line_with_status_2(
    line: str, words: str, run: Runner, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path)] if line.startswith("sweep ") else []
    got = run(line, *out)
    assert got.status == 2, got.err
    assert len(got.err.splitlines()) == 1, got.err
    assert got.err.startswith("threeregime: ")
    assert words in got.err
    assert "no engine can run" not in got.err
    assert len(got.err) < 800
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_of_two_lines_is_shown_on_one(run: Runner) -> None:
    got = run("sweep", "no such\nfile.toml")
    assert got.status == 2
    assert len(got.err.splitlines()) == 1


def test_a_title_that_the_terminal_cannot_show_is_no_error(tmp_path: Path) -> None:
    """With an encoding that lacks some of its characters."""
    words = ["threeregime", "sweep", "schön ✓.toml", "--out", str(tmp_path)]
    code = f"import sys; sys.argv = {words!r}; from threeregime.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "sch\xf6n \\u2713.toml".encode("latin-1") in done.stderr


def test_missing_data_are_named(run: Runner, tmp_path: Path) -> None:
    got = run("sweep figure_02 --scale paper --device cpu --data-dir", tmp_path, "--out", tmp_path)
    assert got.status == 2
    assert len(got.err.splitlines()) == 1
    assert f"{tmp_path / 'cifar-10-batches-py'} is missing" in got.err
    assert "--download" in got.err
    assert list(tmp_path.iterdir()) == []


def test_missing_sentences_are_named_and_nothing_is_fetched(run: Runner, tmp_path: Path) -> None:
    command = "sweep figure_14 --scale paper --device cpu --workers 2 --data-dir"
    got = run(command, tmp_path, "--out", tmp_path)
    assert got.status == 2
    assert len(got.err.splitlines()) == 1
    assert f"{tmp_path / 'wmt14' / 'train.de'} is missing" in got.err
    assert "--download" in got.err
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_table_is_named_and_computed_again(
    smoke: Path, run: Runner, tmp_path: Path
) -> None:
    shutil.copytree(smoke / "figure_02", tmp_path / "figure_02")
    (path, *_) = sorted(tmp_path.rglob("nets-*.parquet"))
    path.write_bytes(b"PAR1 no more")
    got = run(f"{SMOKE} --fleet 8 --out", tmp_path)
    assert got.status == 0
    assert "8 retrainings in 1 fleets" in got.out
    (line,) = [line for line in got.err.splitlines() if str(path) in line]
    assert "is not a results table" in line
    assert run("sweep figure_02 --scale smoke --device cpu --fleet 8 --out", tmp_path).status == 0
    assert path.with_name(f"{path.name}.broken").read_bytes() == b"PAR1 no more"
    got = run(f"{SMOKE} --fleet 8 --out", tmp_path)
    assert (got.out.splitlines()[-1], got.err) == ("nothing to do: all is there already", "")


def test_a_mistake_at_a_real_terminal(tmp_path: Path) -> None:
    """In a separate process, by the installed command if there is one."""
    installed = Path(sys.executable).with_name("threeregime")
    module = [sys.executable, "-c", "from threeregime.cli import main; main()"]
    command = [str(installed)] if installed.exists() else module
    words = ["sweep", "figure_02", "--scale", "huge", "--out", str(tmp_path)]
    got = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
    assert got.returncode == 2
    assert got.stdout == ""
    assert got.stderr.splitlines() == [
        "threeregime: scale = 'huge' is not allowed: figure_02 has "
        + ", ".join(catalogue.list_scales("figure_02"))
    ]


def test_a_dry_run_prints_the_plan_and_its_cost_and_writes_nothing(
    run: Runner, tmp_path: Path
) -> None:
    got = run(SMOKE, "--fleet", "8", "--out", tmp_path / "results")
    assert got.status == 0
    plan, cost = got.out.splitlines()
    assert plan == (
        "figure_02 at scale smoke: 6 cells, 2 x 2 seeds; left to do: 2 dense runs in 1 fleets, "
        "24 retrainings in 3 fleets, 144 net-epochs"
    )
    assert cost.startswith("about ")
    assert cost.endswith(" on cpu")
    assert list(tmp_path.iterdir()) == []


def test_options_shape_the_plan(run: Runner, tmp_path: Path) -> None:
    only = "density=0.05,density=0.33,epochs=3"
    got = run(SMOKE, "--only", only, "--seeds", "3x4", "--out", tmp_path)
    assert "2 cells, 3 x 4 seeds; left to do: 3 dense runs in 1 fleets, 24 retrainings" in got.out
    changes = ["--set", "dense.epochs=9", "--set", "dense.milestones=[5, 8]", "-s", "net.width=0.5"]
    got = run(SMOKE, *changes, "--only", "epochs=9", "--out", tmp_path)
    assert got.status == 0
    assert "3 cells" in got.out


def test_a_sweep_with_options_and_a_second_one_that_does_nothing(
    run: Runner, tmp_path: Path
) -> None:
    words = "sweep figure_02 --scale smoke --only epochs=1,density=0.33 --seeds 1x2 --device cpu"
    words += " --set data.images=160 --out"
    got = run(words, tmp_path)
    assert got.status == 0
    assert got.out.splitlines()[-1] == f"finished: {tmp_path / 'figure_02' / 'smoke'}"
    assert "net-epochs [" in got.err  # the progress bar, with the time left
    experiment = catalogue.load_experiment("figure_02", "smoke").with_fields({"data.images": 160})
    results = load_results(
        experiment.with_values(epochs=[1], density=[0.33]).with_seeds(1, 2), tmp_path
    )
    assert len(results.nets) == 2
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    got = run(words, tmp_path)
    assert got.status == 0
    assert got.out.splitlines()[-1] == "nothing to do: all is there already"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_experiments_are_listed_with_what_is_there(run: Runner) -> None:
    got = run("experiments")
    assert got.status == 0
    lines = got.out.splitlines()
    assert max(map(len, lines)) <= 100
    for name in catalogue.list_experiments():
        title = catalogue.load_experiment(name, "smoke").title
        begin = lines.index(f"{name}: {title}") + 1
        scales = catalogue.list_scales(name)
        assert [line.split()[0] for line in lines[begin : begin + len(scales)]] == scales
        assert not lines[begin + len(scales)]
    assert "--dry-run" in lines[-1]


def listed(run: Runner, name: str, scale: str) -> list[str]:
    """Return the words of one line of the list."""
    _, _, rest = run("experiments").out.partition(f"{name}: ")
    (line,) = [t for t in rest.split("\n\n")[0].splitlines() if t.split()[0] == scale]
    return line.split()


def test_the_list_says_how_much_of_the_results_there_is(
    run: Runner, smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    row = ["smoke", "6", "2", "x", "2"]
    assert listed(run, "figure_02", "smoke") == [*row, "no", "--dry-run", "times", "it"]
    shutil.copytree(smoke / "figure_02", tmp_path / "figure_02")
    assert listed(run, "figure_02", "smoke")[5] == "yes"
    first, *_ = sorted(tmp_path.rglob("pairs-*.parquet"))  # of three fleets of eight nets
    first.unlink()
    assert listed(run, "figure_02", "smoke")[5:7] == ["66", "%"]


def test_help_is_shown(run: Runner) -> None:
    whole = run("--help")
    assert whole.status == 0
    for name in ("sweep", "run", "book", "experiments"):
        assert name in whole.out
    assert run("").status == 2  # no command: the same help
    one = run("sweep --help")
    assert one.status == 0
    for option in ("--scale", "--only", "--seeds", "--device", "--dask", "--out", "--dry-run"):
        assert option in one.out


def test_help_and_version_have_short_forms(run: Runner) -> None:
    for command in ("", "sweep ", "advise ", "results "):
        assert run(f"{command}-h").out == run(f"{command}--help").out
    assert run("--version").out == f"threeregime {version('threeregime')}\n"


def test_a_shell_completes_commands() -> None:
    command = [sys.executable, "-c", "from threeregime.cli import main; main()"]
    variables = {
        **os.environ,
        "_THREEREGIME_COMPLETE": "complete_bash",
        "COMP_WORDS": "threeregime sw",
        "COMP_CWORD": "1",
    }
    program = "import sys; sys.argv = ['threeregime']; "
    command[2] = program + command[2]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["sweep"]


def test_cells_are_chosen_by_one_option_or_several(run: Runner, tmp_path: Path) -> None:
    one, several = (
        run(SMOKE, "--out", tmp_path, *only).out.splitlines()[0]
        for only in (
            ("--only", "density=0.05,density=0.2"),
            ("--only", "density=0.05", "--only", "density=0.2"),
        )
    )
    assert one == several
    assert "4 cells" in one


def test_a_wrong_parameter_of_a_notebook_is_refused_before_pytorch_is_imported() -> None:
    program = """
import sys
from threeregime.cli import main
sys.argv = ["threeregime", "run", "figure_02", "-p", "colour=red"]
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "figure_02 has no parameter 'colour': one of scale, densities" in done.stderr


@pytest.mark.parametrize("name", ["", "mine.ipynb"])
def test_an_executed_notebook_goes_where_it_is_told(
    name: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the notebook computes goes beside it, by an environment variable of its kernel."""
    seen: list[tuple[Path, str]] = []

    def run_notebook(notebook: str, values: object, out: Path) -> Path:
        seen.append((out, os.environ["THREEREGIME_RUNS"]))
        return out

    monkeypatch.setattr(book, "run_notebook", run_notebook, raising=False)
    monkeypatch.setenv("THREEREGIME_RUNS", "elsewhere")
    path = tmp_path / (name or "figure_02.ipynb")
    got = run("run figure_02 --out", tmp_path / name)
    assert got.out.splitlines() == [str(path)]
    assert seen == [(path, str(tmp_path))]


def test_progress_bars_of_a_notebook_are_shown(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_notebook(notebook: str, values: object, out: Path | None) -> Path:
        assert out is not None
        cell = "import sys; print('half', file=sys.stderr); print('number')"
        cells = [nbformat.v4.new_code_cell(cell)]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        source = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        (tmp_path / "notebooks").mkdir()
        nbformat.write(source, tmp_path / "notebooks" / "source.ipynb")
        return notebooks.run_notebook("source", {}, out, root=tmp_path)

    monkeypatch.setattr(book, "run_notebook", run_notebook, raising=False)
    monkeypatch.delenv("THREEREGIME_RUNS", raising=False)
    got = run("run figure_02 --out", tmp_path)
    assert "half" in got.err
    assert "number" not in got.err
    os.environ.pop("THREEREGIME_RUNS")


def test_a_place_that_cannot_be_written_is_named(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", "results/x")

    monkeypatch.setattr(sweep, "run_sweep", refuse)
    got = run("sweep figure_02 --scale smoke --out", tmp_path)
    assert got.status == 2
    assert got.err.splitlines() == [
        "threeregime: results/x: Read-only file system: name another place with --out, or make room"
    ]


def unusable_places(tmp_path: Path) -> dict[str, Path]:
    """Return folders of results that cannot be made, by what is in the way."""
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at" / "all")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    names = ("file", "dangling", "loop", "x" * 300)
    return {name: tmp_path / name for name in names} | {"device": Path("/dev/null")}


@pytest.mark.parametrize("kind", ["file", "dangling", "loop", "x" * 300, "device"])
@pytest.mark.parametrize("dry_run", ["", " --dry-run"])
def test_results_that_have_no_place_are_one_line_before_anything_is_computed(
    dry_run: str, kind: str, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "run_job", lambda *arguments, **options: pytest.fail("computed"))
    out = unusable_places(tmp_path)[kind]
    got = run(f"sweep figure_02 --scale smoke --device cpu{dry_run} --out", out)
    if dry_run and got.status == 0:
        return  # a plan needs no place
    assert got.status == 2
    (line,) = got.err.splitlines()
    assert line.startswith(f"threeregime: {out}")


@pytest.mark.parametrize("ending", [".parquet", ".safetensors"])
def test_a_full_disk_is_one_line_and_loses_nothing(
    ending: str, run: Runner, tmp_path: Path, smoke: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = _files._write_partial

    def refuse(path: Path, write_content: Any) -> None:
        if path.suffix == ending:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, write_content)

    words = "sweep figure_02 --scale smoke --device cpu --workers 1 --fleet 8 --out"
    with monkeypatch.context() as patch:
        patch.setattr(_files, "_write_partial", refuse)
        got = run(words, tmp_path)
    assert got.status == 2
    line = [line for line in got.err.splitlines() if line.startswith("threeregime: ")][-1]
    assert f"{ending}: No space left on device: name another place with --out, or make" in line
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    assert run(words, tmp_path).status == 0
    experiment = catalogue.load_experiment("figure_02", "smoke")
    assert comparing.tables(experiment, tmp_path) == comparing.tables(experiment, smoke)


def test_a_folder_that_is_gone_is_one_line(tmp_path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv.pop(1)); import threeregime.cli as cli;"
        "os.rmdir(os.getcwd()); cli.main()"
    )
    words = [sys.executable, "-c", code, str(Path(cli.__file__).parents[1]), "experiments"]
    (tmp_path / "gone").mkdir()
    done = subprocess.run(words, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("threeregime: the current folder: ")


def test_a_reader_that_ends_early_is_no_error() -> None:
    code = "import sys; from threeregime.cli import main; sys.argv[1:] = ['experiments']; main()"
    command = f'{sys.executable} -c "{code}" | head -n 1'
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout.split()[0] == "scale"
    assert done.stderr == ""


def test_an_interrupt_of_what_is_not_saved_says_so(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(claims, "judge_claims", interrupted)
    got = run("claims")
    assert got.status == 130
    assert got.err.splitlines() == ["stopped; nothing is kept"]


def test_an_interrupt_says_that_nothing_is_lost(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object, **options: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "run_sweep", interrupted)
    got = run("sweep figure_02 --scale smoke --out", tmp_path)
    assert got.status == 130
    assert got.err.splitlines() == ["stopped; what was computed is saved, run it again to go on"]


def test_a_budget_counts_from_the_start_of_the_process(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deadlines: list[object] = []

    def compute(*arguments: object, deadline: float | None, **options: object) -> bool:
        deadlines.append(deadline)
        return True

    monkeypatch.setattr(sweep, "run_sweep", compute)
    monkeypatch.setattr(cli, "START", 1000.0)
    run("sweep figure_02 --time-budget 9m --out", tmp_path)
    run("sweep figure_02 --out", tmp_path)
    assert deadlines == [1000 + 540 - cli.ENDING_SECONDS, None]


def test_auto_is_a_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert dask_workers.resolve_device("auto") == expected
    assert dask_workers.resolve_device("cpu") == "cpu"


# --- option values


def test_durations() -> None:
    assert [parse_duration(text) for text in ("90s", "9m", "2h", "1.5m")] == [90, 540, 7200, 90]


def test_seeds() -> None:
    assert parse_seeds(" 3x4 ") == (3, 4)


def test_cells() -> None:
    assert parse_cells("density=0.05,density=.1,epochs=20") == {
        "density": [0.05, 0.1],
        "epochs": [20.0],
    }
    assert parse_cells("") == {}
    assert parse_cells(["density=0.05", "density=.1,epochs=20"])["density"] == [0.05, 0.1]


def test_fields_are_written_as_in_toml_or_as_bare_words() -> None:
    written = ["net.depth=8", "data.flip=false", "dense.milestones=[1, 2]", "dense.lr = 1e-3"]
    assert parse_fields([*written, "data.name=folder:my pictures", 'net.name="preresnet"']) == {
        "net.depth": 8,
        "data.flip": False,
        "dense.milestones": [1, 2],
        "dense.lr": 1e-3,
        "data.name": "folder:my pictures",
        "net.name": "preresnet",
    }


def test_a_users_error_is_a_value_error() -> None:
    """Readers of a notebook can catch it without knowing this package."""
    assert issubclass(ThreeRegimeError, ValueError)
