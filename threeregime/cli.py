"""The command line: ``threeregime COMMAND``."""

from __future__ import annotations

import time

START = time.time()  # a time budget includes the imports below

import io  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from threeregime import _option_values as values  # noqa: E402
from threeregime._option_values import parse_cells, parse_duration, parse_fields, split_pair  # noqa: E402
from threeregime.errors import ThreeRegimeError  # noqa: E402

ENDING_SECONDS = 5.0
"""Part of a time budget that a process needs to save its state and end."""
INTERRUPTED = 130  # exit status of typer and of shells after Ctrl-C
SAVING = ("sweep", "study")  # commands that save what they compute, and continue it

EXTRAS = {  # which extra of the package brings a library
    **dict.fromkeys(("IPython", "anywidget", "papermill", "playwright", "yaml"), "book"),
    **dict.fromkeys(("num2words", "sacrebleu"), "translation"),
}

app = typer.Typer(
    help="Executable companion to 'A Three-regime Model of Network Pruning' (ICML 2023).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
results_app = typer.Typer(help="Tables of results.", no_args_is_help=True)
app.add_typer(results_app, name="results")

ExperimentName = Annotated[
    str, typer.Argument(help="Name, e.g. figure_02, or path of a TOML file.")
]
Scale = Annotated[str, typer.Option(help="smoke, clutter, mini or paper.")]
Names = list[str] | None
Root = Annotated[Path | None, typer.Option(help="Where the tables lie; shipped ones by default.")]
Results = Annotated[
    Path | None, typer.Option(help="Folder of the results; default: results/ or runs/results/.")
]
DataDir = Annotated[Path, typer.Option(help="Folder of the data sets.")]
TimeBudget = Annotated[
    str, typer.Option(help="Stop before it ends, with everything saved: 90s, 9m, 2h.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
Fields = Annotated[
    Names, typer.Option("--set", "-s", help="Change a protocol field, e.g. data.name=folder:pics.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from threeregime._version import version

        print(f"threeregime {version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Executable companion to 'A Three-regime Model of Network Pruning' (ICML 2023)."""


@app.command()
def sweep(
    experiment: ExperimentName,
    scale: Scale = "clutter",
    only: Annotated[
        Names, typer.Option(help="Values of axes, e.g. density=0.05,epochs=20; repeat for more.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Dense and retraining seeds, e.g. 3x3.")] = "",
    set_: Fields = None,
    out: Results = None,
    data_dir: DataDir = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Download missing data.")] = False,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core or GPU.")] = 0,
    dask: Annotated[
        str, typer.Option(help="Dask cluster to use: tcp://host:8786, or its scheduler file.")
    ] = "",
    fleet: Annotated[
        int | None,
        typer.Option(help="Maximum number of nets in a fleet; default: 48, on a GPU 384."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(help="Engine of the fleets, e.g. 'grouped bfloat16'; auto: the net decides."),
    ] = "auto",
    time_budget: TimeBudget = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print the plan and its cost.")
    ] = False,
) -> None:
    """Compute the missing results of an experiment; after a stop, run it again to continue."""
    from threeregime._paths import CHECKOUT, RUNS
    from threeregime.experiments import load_experiment
    from threeregime.results import tables
    from threeregime.sweep import run_sweep

    # An installed package is not written to: what it holds already is not computed again.
    default, shipped = (tables.ROOT, ()) if CHECKOUT else (RUNS / "results", (tables.ROOT,))
    budget = parse_duration(time_budget) if time_budget else None
    study = load_experiment(experiment, scale).with_fields(parse_fields(set_ or []))
    study = study.with_values(**parse_cells(only))
    if seeds:
        study = study.with_seeds(*values.parse_seeds(seeds))
    run_sweep(
        study,
        out or default,
        other_roots=() if out else shipped,
        device=device,
        workers=workers,
        dask=dask,
        fleet=fleet,
        engine=engine,
        data_dir=data_dir,
        download=download,
        deadline=START + budget - ENDING_SECONDS if budget else None,
        dry_run=dry_run,
    )


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Name of the notebook, e.g. figure_02.")],
    parameter: Annotated[
        Names, typer.Option("--parameter", "-p", help="NAME=VALUE; repeat for more.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Executed notebook, or a folder for it and what it computes."),
    ] = None,
) -> None:
    """Run a notebook with other parameters, through papermill."""
    _need_checkout("notebooks")
    from threeregime.book import run_notebook

    if out is not None:
        out = out if out.suffix == ".ipynb" else out / f"{notebook}.ipynb"
        os.environ["THREEREGIME_RUNS"] = str(out.parent.absolute())
    print(run_notebook(notebook, dict(split_pair(p) for p in parameter or []), out))


@app.command()
def claims(
    only: Annotated[
        Names, typer.Option(help="Only these claims, e.g. heating_helps,depth; repeat for more.")
    ] = None,
    root: Root = None,
) -> None:
    """Decide the paper's claims from the tables of the registered studies, a line on each."""
    from threeregime.claims import judge_claims, verdict_lines

    names = [name for names in only or () for name in names.split(",") if name]
    for line in verdict_lines(judge_claims(names, root)):
        print(line)


@app.command("study")
def run_studies(
    out: Results = None,
    data_dir: DataDir = Path("data"),
    workers: Annotated[int, typer.Option(help="Processes; 0: one per core.")] = 0,
    time_budget: TimeBudget = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what is missing and its core-hours.")
    ] = False,
) -> None:
    """Compute what the registered studies lack, where most claims are open first."""
    from threeregime._paths import CHECKOUT, RUNS
    from threeregime.claims import look_lines, missing_looks, run_looks
    from threeregime.results import tables

    budget = parse_duration(time_budget) if time_budget else None
    root = out or (tables.ROOT if CHECKOUT else RUNS / "results")
    if dry_run:
        lines = look_lines(missing_looks(root, data_dir))
    else:
        deadline = START + budget - ENDING_SECONDS if budget else None
        lines = run_looks(root, data_dir=data_dir, workers=workers, deadline=deadline)
    for line in lines:
        print(line, flush=True)


@app.command("boundary")
def trace_boundary(
    experiment: ExperimentName,
    scale: Scale = "clutter",
    variant: Annotated[str, typer.Option(help="Variant, if the experiment has several.")] = "",
    lmc_threshold: Annotated[float, typer.Option(help="Threshold of LMC for Regime I.")] = -0.05,
    set_: Fields = None,
    device: Device = "auto",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Ignore the shipped tables.")
    ] = False,
) -> None:
    """Find the boundary of Regime I by bisection, with a fraction of the diagram's cells."""
    from threeregime.analysis import describe_boundary
    from threeregime.experiments import load_experiment

    study = load_experiment(experiment, scale).with_fields(parse_fields(set_ or []))
    print(describe_boundary(study, variant, lmc_threshold, device, recompute))


@app.command("book")
def build_book(
    pdf: Annotated[bool, typer.Option("--pdf", help="Also print it as a PDF.")] = False,
) -> None:
    """Run all notebooks, build the Jupyter Book and print the path of its first page."""
    _need_checkout("book")
    from threeregime.book import build_book
    from threeregime.book.pdf import find_chromium, open_browser, print_book

    if pdf:
        find_chromium()  # an error before all the work
    print(build_book())
    if pdf:
        with open_browser() as browser:
            print(print_book(browser))


@app.command()
def experiments() -> None:
    """List the experiments: scales, cells, seeds, shipped results, and cost on this machine."""
    from threeregime.results import experiment_list

    for line in experiment_list():
        print(line)


@results_app.command("pack")
def pack_results(
    studies: Annotated[Names, typer.Argument(help="Studies, e.g. figure_02; default: all.")] = None,
    root: Root = None,
) -> None:
    """Merge the files that sweeps wrote into one for each table; nothing in them changes."""
    from threeregime.results import pack, tables

    merged = 0
    for study, scale, shards in pack(root or tables.ROOT, studies or ()):
        print(f"{study}, {scale}: {shards} files merged")
        merged += shards
    if not merged:
        print("nothing to do: all is packed")


@results_app.command("archive")
def archive_results(
    out: Annotated[Path, typer.Option(help="Folder of the archive.")] = Path("dist"),
    root: Root = None,
) -> None:
    """Write the packed tables as one archive, with a manifest of checksums, for a release."""
    from threeregime.results import archive, tables

    for path in archive.write_archive(root or tables.ROOT, out):
        print(path)


@app.command()
def advise(
    net: Annotated[
        str, typer.Argument(help="Your net: FILE.py:function, package.module:function(classes=10).")
    ],
    more: Annotated[Names, typer.Argument(help="Weights, as a shell expands epoch_*.pt.")] = None,
    weights: Annotated[Names, typer.Option(help="File of weights or 'epoch_*.pt'; repeat.")] = None,
    data: Annotated[
        str, typer.Option(help="Folder with train/CLASS/IMAGE (and test/), or FILE.py:function.")
    ] = "",
    test: Annotated[str, typer.Option(help="Test data, as a folder or FILE.py:function.")] = "",
    density: Annotated[float, typer.Option(help="Fraction of the weights to keep.")] = 0.05,
    method: Annotated[str, typer.Option(help="uniform, or global over all layers.")] = "uniform",
    keep: Annotated[Names, typer.Option(help="Layer to leave dense, e.g. 'stem*'; repeat.")] = None,
    prune: Annotated[Names, typer.Option(help="Layer to prune instead of all; repeat.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of retraining; default: as many as make 500 steps.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Batch size of retraining.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or sgd.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of retraining.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 decay of retraining.")] = None,
    retrain: Annotated[str, typer.Option(help="Your training: FILE.py:function(net, seed).")] = "",
    retrain_all: Annotated[
        bool, typer.Option("--retrain-all", help="Retrain every checkpoint; needs test data.")
    ] = False,
    copies: Annotated[int, typer.Option(help="Retrained copies of each pruned net.")] = 2,
    max_examples: Annotated[int, typer.Option(help="Examples of a split to draw.")] = 10_000,
    size: Annotated[int | None, typer.Option(help="Pixels to scale images to, each way.")] = None,
    grey: Annotated[bool | None, typer.Option(help="Grey images; default: as the net.")] = None,
    mean: Annotated[str, typer.Option(help="Pixel mean, e.g. 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="Pixel deviation; default: of the images.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    device: Device = "auto",
    figure: Annotated[Path | None, typer.Option(help="Figure to draw, e.g. barrier.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    progress: Annotated[bool | None, typer.Option(help="Show a forecast and a bar.")] = None,
) -> None:
    """Recommend hotter or colder training of your net before it is pruned."""
    from torch import nn

    from threeregime import advice
    from threeregime.fleet import random_state_kept

    if figure is not None:
        values.check_figure(figure)
    with random_state_kept(seed):  # a net may draw its weights, and data their noise
        model = values.user_object(net, keep=nn.Module)
        examples = values.user_data(data)
        test_examples = values.user_data(test, "test") if test else None
    checkpoints = values.name_files(values.find_files([*(weights or []), *(more or [])]))
    retraining: Any = values.user_object(retrain, call=False) if retrain else None
    answer = advice.advise(
        model,
        examples,
        test_data=test_examples,
        checkpoints=checkpoints or None,
        retrain_all=retrain_all,
        density=density,
        method=method,
        keep=keep or (),
        prune=prune,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        retrain=retraining,
        copies=copies,
        max_examples=max_examples,
        size=size,
        grey=grey,
        mean=values.parse_numbers("mean", mean),
        std=values.parse_numbers("std", std),
        seed=seed,
        device=device,
        progress=progress,
    )
    if figure is not None:
        answer.figure(figure)
    print(answer.to_json() if json else answer)


def _need_checkout(what: str) -> None:
    from threeregime._paths import CHECKOUT

    if not CHECKOUT:
        raise ThreeRegimeError(f"{what}: not in the installed package, run this in a checkout")


def _complain(line: str) -> int:
    """Print the line of a user's error; return its exit status."""
    # The name of a file may have several lines.
    print(f"threeregime: {' '.join(line.splitlines())}", file=sys.stderr)
    return 2


def main() -> None:
    """Run the command line; print a user's error as one line, with exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        # Titles and file names may have characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        os.getcwd()
    except OSError as error:
        sys.exit(_complain(f"the current folder: {error.strerror}: change to another one"))
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        status = error.exit_code
        if line := error.format_message():  # empty if the help is shown instead
            _complain(f"{line} (--help lists what there is)")
    except ThreeRegimeError as error:
        status = _complain(str(error))
    except BrokenPipeError:
        # Whoever read the output has ended, e.g. `head`; without this, Python complains at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except OSError as error:
        # The system says what it refuses, and where: no line of code would say more.
        place, reason = error.filename or "a file", error.strerror or str(error)
        status = _complain(f"{place}: {reason}: name another place with --out, or make room")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        extra = EXTRAS[error.name]
        status = _complain(f"{error.name} is missing: pip install 'threeregime[{extra}]'")
    if status == INTERRUPTED:
        saved = sys.argv[1:2] and sys.argv[1] in SAVING
        state = "what was computed is saved, run it again to go on" if saved else "nothing is kept"
        print(f"stopped; {state}", file=sys.stderr)
    sys.exit(status)
