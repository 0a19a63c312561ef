"""Notebooks: find them, and run one with chosen parameters through papermill."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import papermill
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from threeregime._fields import is_whole, require
from threeregime._files import HeldError, claims
from threeregime._paths import ROOT
from threeregime.book.kernel_server import KernelManager
from threeregime.errors import ThreeRegimeError

BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
CONVERTERS: dict[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "bool": lambda text: BOOLEANS[text.lower()],
}


def notebook_paths(root: Path = ROOT) -> dict[str, Path]:
    """Return the notebooks of the project in the folder ``root``, by name."""
    return {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}


def run_notebook(
    name: str, parameters: Mapping[str, Any], out: Path | None = None, root: Path = ROOT
) -> Path:
    """Run a notebook with some of its parameters changed.

    Args:
        name: name of the notebook, e.g. ``"figure_02"``.
        parameters: values by name; strings are converted to the annotated type of the parameter.
        out: the executed notebook to write (default ``runs/NAME.ipynb`` below ``root``).
        root: folder of the project.

    Returns:
        Path of the executed notebook.

    Raises:
        ThreeRegimeError: the notebook or a parameter is unknown, a value has the wrong type, or a
            cell failed. The message of a failure names the notebook with the traceback.
    """
    known = notebook_paths(root)
    if name not in known:
        raise ThreeRegimeError(f"notebook {name!r} is not known: one of {', '.join(known)}")
    allowed = papermill.inspect_notebook(known[name])
    values = {}
    for key, value in parameters.items():
        if key not in allowed:
            choice = f"one of {', '.join(allowed)}" if allowed else "it has none"
            raise ThreeRegimeError(f"{name} has no parameter {key!r}: {choice}")
        values[key] = convert(key, allowed[key]["inferred_type_name"], value)
    out = out or root / "runs" / f"{name}.ipynb"
    try:
        with claims([out.with_name(f".{out.name}.claim")]):
            execute(known[name], out, values)
    except HeldError as holder:
        raise ThreeRegimeError(
            f"{out} is written by {holder}: wait, or give another --out"
        ) from None
    return out


def convert(name: str, annotation: str, value: Any) -> Any:
    """Convert a string to the annotated type: str, int, float, bool, or a list of one of these.

    Args:
        name: name of the parameter, for the error.
        annotation: type as the notebook annotates it, e.g. ``"list[float]"``.
        value: a string; a list is written ``5,6,7`` or ``[5, 6, 7]``. Other values are returned
            unchanged.

    Raises:
        ThreeRegimeError: the string is not such a value.
    """
    if not isinstance(value, str) or annotation in ("str", "None"):
        return value
    if element := re.fullmatch(r"list\[(\w+)\]", annotation):
        inner = re.fullmatch(r"\[([^][]*)\]|([^][]*)", value.strip())
        # Lists within the list would be taken for one long list.
        require(inner is not None, name, value, f"{annotation}, e.g. 5,6,7")
        assert inner is not None
        parts = [part.strip().strip("'\"") for part in (inner[1] or inner[2] or "").split(",")]
        return [convert(name, element[1], part) for part in parts if part]
    try:
        number = CONVERTERS[annotation](value)
        if annotation == "int" and not is_whole(number):
            raise ValueError
    except (KeyError, ValueError):
        require(False, name, value, annotation)
    return number


def execute(
    source: Path,
    out: Path,
    values: Mapping[str, Any],
    manager: type[KernelManager] = KernelManager,
    arguments: Sequence[str] = (),
) -> None:
    """Execute a notebook in its own folder, as JupyterLab does; show its standard error here too.

    Args:
        source: the notebook.
        out: the executed notebook to write; it is written after a failure as well.
        values: parameters by name.
        manager: kernel manager that starts the kernel.
        arguments: further arguments of `threeregime.book.kernel`.

    Raises:
        ThreeRegimeError: a cell failed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            source,
            out,
            dict(values),
            progress_bar=False,
            stderr_file=sys.stderr,  # progress bars, and what a cell says of the machine
            kernel_manager_class=manager,
            resources={"metadata": {"path": str(source.parent)}},
            coalesce_streams=True,
            # A kernel logs an error when it is stopped at the end of its notebook.
            extra_arguments=["--HistoryManager.enabled=False", "--log-level=CRITICAL", *arguments],
        )
    except PapermillExecutionError as error:
        # The project's own errors say what to do; the name of others says what they are.
        own = error.ename == ThreeRegimeError.__name__
        what = (error.evalue if own else f"{error.ename}: {error.evalue}").strip().splitlines()[0]
        raise ThreeRegimeError(f"{source.stem} failed ({what}); see {out}") from error
    except DeadKernelError as error:
        raise ThreeRegimeError(f"{source.stem} failed (its kernel died); see {out}") from error
    finally:
        # The client of the kernel makes an event loop for this thread and leaves it open.
        if not (loop := ensure_event_loop()).is_running():
            loop.close()
