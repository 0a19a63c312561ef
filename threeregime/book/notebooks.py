"""Notebooks: run one with other parameters, or all of them, and store what they print.

Notebooks are stored with the outputs of their default parameters, in a form in which the same
outputs are the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.exceptions import PapermillExecutionError

from threeregime._paths import ROOT
from threeregime.errors import ThreeRegimeError

BUILD = Path("book") / "_build"
WORKERS = 2


class _ThisPython(AsyncKernelManager):
    """Kernels of the interpreter that runs us, whatever kernels the user has registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(
            argv=argv,
            display_name="Python 3",
            language="python",
            env={"PYTHONPATH": environment()["PYTHONPATH"]},
        )


def notebooks(root: Path = ROOT) -> dict[str, Path]:
    """The notebooks below ``root``, by name."""
    return {path.stem: path for path in sorted((root / "notebooks").glob("*.ipynb"))}


def environment() -> dict[str, str]:
    """Environment of the processes started here: our package first, installed or not."""
    path = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def run_notebook(
    name: str, parameters: Mapping[str, Any], out: Path | None = None, root: Path = ROOT
) -> Path:
    """Run a notebook with some of its parameters changed.

    Args:
        name: the notebook's name, e.g. ``"figure_02"``.
        parameters: values by name; texts are converted to the type the notebook annotates.
        out: the executed notebook to write (default ``runs/NAME.ipynb`` below ``root``).
        root: the project's folder.

    Returns:
        Path of the executed notebook.

    Raises:
        ThreeRegimeError: unknown notebook or parameter, a value of the wrong type, or a cell that
            failed; the message names the notebook that shows how far it came.
    """
    known = notebooks(root)
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
    _execute(known[name], out, values)
    return out


def convert(name: str, annotation: str, value: Any) -> Any:
    """Turn a text into a value of the annotated type: str, int, float, bool, or a list of these.

    Lists may be written ``5,6,7`` or ``[5, 6, 7]``. What is not a text is returned as it is.

    Raises:
        ThreeRegimeError: the text does not spell such a value.
    """
    if not isinstance(value, str) or annotation in ("str", "None"):
        return value
    if inner := re.fullmatch(r"list\[(\w+)\]", annotation):
        parts = [part.strip().strip("'\"") for part in value.strip("[] ").split(",")]
        return [convert(name, inner[1], part) for part in parts if part]
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    makers: dict[str, Callable[[str], Any]] = {
        "int": int,
        "float": float,
        "bool": lambda text: words[text.lower()],
    }
    try:
        return makers[annotation](value)
    except (KeyError, ValueError):
        raise ThreeRegimeError(f"{name} = {value!r} is not allowed: {annotation}") from None


def _execute(source: Path, out: Path, values: dict[str, Any]) -> None:
    """Run ``source`` in its own folder, as JupyterLab does, and write ``out``."""
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            source,
            out,
            values,
            progress_bar=False,
            kernel_manager_class=_ThisPython,
            resources={"metadata": {"path": str(source.parent)}},
            coalesce_streams=True,
            # A kernel calls it an error to be stopped when its notebook is done.
            extra_arguments=["--HistoryManager.enabled=False", "--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        what = f"{error.ename}: {error.evalue}".strip().splitlines()[0]
        raise ThreeRegimeError(f"{source.stem} failed ({what}); see {out}") from error
    finally:
        # Made for this thread by the kernel's client, which leaves it open.
        if not (loop := ensure_event_loop()).is_running():
            loop.close()


def stored(text: str) -> str:
    """An executed notebook as it is stored: without times, versions, addresses, random names."""
    notebook = json.loads(text)
    widgets = notebook["metadata"].get("widgets")
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        **({"widgets": widgets} if widgets else {}),
    }
    for number, cell in enumerate(notebook["cells"]):
        cell["id"] = f"cell-{number}"
        kept = {k: v for k, v in cell["metadata"].items() if k not in ("papermill", "execution")}
        cell["metadata"] = {k: v for k, v in kept.items() if v or k != "tags"}
        if "outputs" in cell:
            address = re.compile(r"(?<= at )0x[0-9a-f]+(?=>)")
            cell["outputs"] = json.loads(address.sub("0x0", json.dumps(cell["outputs"])))
    for number, name in enumerate(_widgets_in_order(notebook)):
        text = json.dumps(notebook).replace(name, f"{number:032x}")
        notebook = json.loads(text)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _widgets_in_order(notebook: dict[str, Any]) -> list[str]:
    """Names of all widget models, in an order that does not depend on the names.

    Those shown come first, each followed by the ones it holds; then those that nothing shows, such
    as the links between widgets.
    """
    parts = notebook["metadata"].get("widgets", {}).values()
    state = {name: json.dumps(m, sort_keys=True) for p in parts for name, m in p["state"].items()}
    order: dict[str, int] = {}

    def visit(name: str) -> None:
        if name in state and name not in order:
            order[name] = len(order)
            for held in re.findall(r"IPY_MODEL_(\w+)", state[name]):
                visit(held)

    for view in re.findall(r'"model_id": "(\w+)"', json.dumps(notebook["cells"])):
        visit(view)

    def nameless(name: str) -> str:
        return re.sub(r"IPY_MODEL_(\w+)", lambda held: str(order.get(held[1], "new")), state[name])

    for name in sorted(state.keys() - order.keys(), key=nameless):
        visit(name)
    return list(order)


def execute_all(root: Path = ROOT) -> list[str]:
    """Run, two at a time and in place, the notebooks whose inputs changed since their last run.

    Inputs are the notebook's source, the package, the results and the pinned libraries.

    Returns:
        Names of the notebooks that ran.

    Raises:
        ThreeRegimeError: a cell failed; the stored notebook stays as it was.
    """
    record = root / BUILD / "executed.json"
    before = json.loads(record.read_text()) if record.exists() else {}
    common = _digest(_inputs(root))
    changed = [p for n, p in notebooks(root).items() if before.get(n) != _fingerprint(p, common)]

    def run(path: Path) -> None:
        source, scratch = path.read_bytes(), record.parent / "executed" / path.name
        _execute(path, scratch, {})
        made = stored(scratch.read_text(encoding="utf-8")).encode()
        # What somebody edited meanwhile is theirs; what did not change keeps its date.
        if path.read_bytes() == source != made:
            path.write_bytes(made)
        print(f"ran {path.stem}", flush=True)

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(run, changed))
    done = {name: _fingerprint(path, common) for name, path in notebooks(root).items()}
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(done, indent=1))
    return [path.stem for path in changed]


def _inputs(root: Path) -> list[Path]:
    found = [p for part in ("threeregime", "results") for p in sorted((root / part).rglob("*"))]
    files = [p for p in found if p.is_file() and "__pycache__" not in p.parts]
    return [*files, *root.glob("requirements.lock")]


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256(sys.version.encode())
    for path in files:
        digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


def _fingerprint(path: Path, common: str) -> str:
    """Changes with the inputs and with the file, so that outputs edited by hand are made anew."""
    return hashlib.sha256(common.encode() + path.read_bytes()).hexdigest()
