"""The command line: ``threeregime sweep``, ``run``, ``book``, ``experiments``, ``advise``."""

from __future__ import annotations

import time

START = time.time()  # before the heavy imports: a time budget counts from here

import re  # noqa: E402
import sys  # noqa: E402
import tomllib  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from threeregime.errors import ThreeRegimeError  # noqa: E402

ENDING_SECONDS = 5.0
INTERRUPTED = 130  # what a shell gives for Ctrl-C, and typer too

app = typer.Typer(
    help="Executable companion to 'A Three-regime Model of Network Pruning' (ICML 2023).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
results_app = typer.Typer(help="Tables of results.", no_args_is_help=True)
app.add_typer(results_app, name="results")


Scale = Annotated[str, typer.Option(help="smoke, digits, mini or paper.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
Fields = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", help="Change a protocol field, e.g. data.name=folder:pics."),
]


@app.command()
def sweep(
    experiment: Annotated[
        str, typer.Argument(help="Experiment, e.g. figure_02, or its TOML file.")
    ],
    scale: Scale = "digits",
    only: Annotated[
        str, typer.Option(help="Cells by axis value, e.g. density=0.05,epochs=20; repeat for more.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Dense x retraining seeds, e.g. 3x3.")] = "",
    set_: Fields = None,
    out: Annotated[
        Path | None, typer.Option(help="Where results go; shipped ones by default.")
    ] = None,
    data_dir: Annotated[Path, typer.Option(help="Where data sets lie.")] = Path("data"),
    download: Annotated[bool, typer.Option("--download", help="Download missing data.")] = False,
    device: Device = "auto",
    workers: Annotated[int, typer.Option(help="Processes; 0: one a core, 1 on a GPU.")] = 0,
    dask: Annotated[
        str, typer.Option(help="Use this Dask cluster: tcp://host:8786, or its scheduler file.")
    ] = "",
    fleet: Annotated[int, typer.Option(help="Most nets in a fleet.")] = 48,
    engine: Annotated[
        str, typer.Option(help="How fleets are run, e.g. 'grouped bfloat16'; auto: by a trial.")
    ] = "auto",
    time_budget: Annotated[str, typer.Option(help="Stop in time, all saved: 90s, 9m, 2h.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost.")
    ] = False,
) -> None:
    """Compute what is missing of an experiment; run it again to go on where it stopped."""
    from threeregime.experiments import load_experiment
    from threeregime.results import tables
    from threeregime.sweep import run_sweep

    budget = parse_duration(time_budget) if time_budget else None
    chosen = load_experiment(experiment, scale).with_fields(parse_fields(set_ or []))
    chosen = chosen.with_values(**parse_cells(only))
    if seeds:
        chosen = chosen.with_seeds(*parse_seeds(seeds))
    run_sweep(
        chosen,
        out or tables.ROOT,
        device=device,
        workers=workers,
        dask=dask,
        fleet=fleet,
        engine=engine,
        data_dir=data_dir,
        download=download,
        # Less what a process needs to save and end.
        deadline=START + budget - ENDING_SECONDS if budget else None,
        dry_run=dry_run,
    )


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="Notebook, e.g. figure_02.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="NAME=VALUE, as often as needed.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the executed notebook goes.")] = None,
) -> None:
    """Run a notebook with parameters of your own, through papermill."""
    from threeregime.book import run_notebook

    print(run_notebook(notebook, dict(split_pair(p) for p in parameter or []), out))


@app.command()
def claims(
    scale: Annotated[str, typer.Option(help="Of the tables: digits or paper.")] = "digits",
    only: Annotated[str, typer.Option(help="Keys of some claims, e.g. heating_helps,depth.")] = "",
) -> None:
    """What holds of the paper's statements on the shipped tables, a line each."""
    from threeregime.claims import judge_claims, verdict_lines

    names = list(filter(None, only.split(",")))
    for line in verdict_lines(judge_claims(scale, names=names)):
        print(line)


@app.command("boundary")
def trace_boundary(
    experiment: Annotated[
        str, typer.Argument(help="Experiment, e.g. figure_02, or its TOML file.")
    ],
    scale: Scale = "digits",
    variant: Annotated[str, typer.Option(help="Which, where the experiment has several.")] = "",
    lmc_threshold: Annotated[float, typer.Option(help="Below it a cell is in Regime I.")] = -0.05,
    set_: Fields = None,
    device: Device = "auto",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Do not read the shipped tables.")
    ] = False,
) -> None:
    """Find where Regime I begins by bisection, with a fraction of the diagram's cells."""
    from threeregime.analysis import describe_boundary
    from threeregime.experiments import load_experiment

    chosen = load_experiment(experiment, scale).with_fields(parse_fields(set_ or []))
    found = describe_boundary(chosen, variant, lmc_threshold, device, recompute)
    print(found)


@app.command("book")
def build_book(
    pdf: Annotated[bool, typer.Option("--pdf", help="Print it as a PDF, too.")] = False,
) -> None:
    """Run every notebook and build the Jupyter Book; prints where its first page is."""
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
    """List the experiments: scales, cells, seeds, shipped results, and what each costs here."""
    from threeregime.results import experiment_list

    for line in experiment_list():
        print(line)


@results_app.command("pack")
def pack_results(
    studies: Annotated[
        list[str] | None, typer.Argument(help="Studies, e.g. figure_02; by default all.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the tables lie; shipped ones by default.")
    ] = None,
) -> None:
    """Merge the files that sweeps wrote into one for each table; nothing in them changes."""
    from threeregime.results import pack, tables

    merged = 0
    for study, scale, shards in pack(root or tables.ROOT, studies or ()):
        print(f"{study}, {scale}: {shards} files merged")
        merged += shards
    if not merged:
        print("nothing to do: all is packed")


@app.command()
def advise(
    net: Annotated[
        str, typer.Argument(help="Your net: FILE.py:function, package.module:function(classes=10).")
    ],
    more: Annotated[
        list[str] | None, typer.Argument(help="More weights, as a shell makes of epoch_*.pt.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="File of weights, or of several: 'epoch_*.pt'; as often as needed."),
    ] = None,
    data: Annotated[
        str, typer.Option(help="Folder with train/CLASS/IMAGE (and test/), or FILE.py:function.")
    ] = "",
    test: Annotated[str, typer.Option(help="FILE.py:function that returns test data.")] = "",
    density: Annotated[float, typer.Option(help="Share of the weights to keep.")] = 0.05,
    epochs: Annotated[
        int | None, typer.Option(help="Of retraining; by default chosen by the data.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="In retraining, likewise.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam or sgd, likewise.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of it.")] = None,
    copies: Annotated[int, typer.Option(help="Retrained copies of each pruned net.")] = 2,
    most: Annotated[int, typer.Option(help="Examples of a split that are used at most.")] = 10_000,
    mean: Annotated[str, typer.Option(help="Of images' pixels in [0, 1]: 0.49,0.48,0.45.")] = "",
    std: Annotated[str, typer.Option(help="Likewise; by default both are measured.")] = "",
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    device: Device = "auto",
    figure: Annotated[Path | None, typer.Option(help="Draw the barrier, e.g. barrier.png.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    progress: Annotated[
        bool | None, typer.Option(help="Show a bar; by default on a terminal.")
    ] = None,
) -> None:
    """Tell whether your net wants hotter or colder training before it is pruned."""
    from threeregime.advice import advise as ask
    from threeregime.advice import user_files

    if figure is not None:
        user_files.check_figure(figure)
    model = user_files.call_function(net)
    paths = user_files.name_files(user_files.files([*(weights or []), *(more or [])]))
    train_data, test_data = user_files.load_data(data, model, most, seed, mean, std)
    answer = ask(
        model,
        train_data,
        density=density,
        test_data=user_files.call_function(test) if test else test_data,
        checkpoints=paths or None,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        lr=lr,
        copies=copies,
        most=most,
        seed=seed,
        device=device,
        progress=progress,
    )
    if figure is not None:
        answer.figure(figure)
    print(answer.to_json() if json else answer)


def split_pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ThreeRegimeError(f"{text!r} is not of the form NAME=VALUE")
    return name.strip(), value.strip()


def parse_fields(pairs: list[str]) -> dict[str, Any]:
    """Parse SECTION.FIELD=VALUE, where VALUE is as in TOML or a bare word."""
    fields = {}
    for path, value in map(split_pair, pairs):
        if path.count(".") != 1:
            raise ThreeRegimeError(f"{path!r} is not of the form SECTION.FIELD, e.g. net.width")
        try:
            fields[path] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            fields[path] = value
    return fields


def parse_cells(text: str) -> dict[str, list[float]]:
    """Parse density=0.05,density=0.1,epochs=20 into the values of each axis."""
    cells: dict[str, list[float]] = {}
    for name, value in map(split_pair, filter(None, text.split(","))):
        try:
            cells.setdefault(name, []).append(float(value))
        except ValueError:
            raise ThreeRegimeError(f"{name} = {value!r} is not allowed: a number") from None
    return cells


def parse_seeds(text: str) -> tuple[int, int]:
    """Parse 3x3."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip())
    if not match:
        raise ThreeRegimeError(f"seeds = {text!r} is not allowed: DENSExRETRAINING, e.g. 3x3")
    return int(match[1]), int(match[2])


def parse_duration(text: str) -> float:
    """Parse 90s, 9m or 2h into seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text.strip())
    if not match or not float(match[1]):
        raise ThreeRegimeError(f"time budget {text!r} is not allowed: e.g. 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def main() -> None:
    """Entry point: a user's error is one line and status 2."""
    try:
        status = app(standalone_mode=False)
    except typer.TyperException as error:
        status, line = error.exit_code, error.format_message()
        if line:  # there is none where the help has been shown instead
            print(f"threeregime: {line} (--help lists what there is)", file=sys.stderr)
    except ThreeRegimeError as error:
        status = 2
        print(f"threeregime: {error}", file=sys.stderr)
    if status == INTERRUPTED:
        print("stopped; what was computed is saved, run it again to go on", file=sys.stderr)
    sys.exit(status)
