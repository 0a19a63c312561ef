"""Values of command-line options: numbers and cells, files, and functions of a user's code."""

from __future__ import annotations

import ast
import glob
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threeregime._fields import parse_toml, require, shorten
from threeregime.errors import ThreeRegimeError


def split_pair(text: str) -> tuple[str, str]:
    """Split NAME=VALUE into name and value."""
    name, equals, value = text.partition("=")
    if not (name.strip() and equals and value.strip()):
        raise ThreeRegimeError(f"{shorten(text)} is not of the form NAME=VALUE")
    return name.strip(), value.strip()


def parse_fields(pairs: list[str]) -> dict[str, Any]:
    """Parse SECTION.FIELD=VALUE, with a TOML value or a bare word, into values by path."""
    fields = {}
    for path, value in map(split_pair, pairs):
        try:
            table = parse_toml(f"value = {value}")
        except ValueError:
            table = {}
        # More than one entry: the value has lines of its own, and is no TOML value.
        fields[path] = table["value"] if len(table) == 1 else value
    return fields


def parse_cells(texts: str | Sequence[str] | None) -> dict[str, list[float]]:
    """Parse density=0.05,density=0.1,epochs=20, in one or several texts, into values by axis."""
    cells: dict[str, list[float]] = {}
    text = texts if isinstance(texts, str) else ",".join(texts or ())
    for name, value in map(split_pair, filter(None, text.split(","))):
        try:
            cells.setdefault(name, []).append(float(value))
        except ValueError:
            require(False, name, value, "a number")
    return cells


def parse_seeds(text: str) -> tuple[int, int]:
    """Parse 3x3 into numbers of dense and retraining seeds."""
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text.strip())
    if not match:
        allowed = "DENSExRETRAINING, e.g. 3x3"
        raise ThreeRegimeError(f"seeds = {shorten(text)} is not allowed: {allowed}")
    return int(match[1]), int(match[2])


def parse_duration(text: str) -> float:
    """Parse 90s, 9m or 2h into seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh])", text.strip())
    if not match or not float(match[1]):
        raise ThreeRegimeError(f"time budget {shorten(text)} is not allowed: e.g. 90s, 9m or 2h")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]


def parse_numbers(name: str, text: str) -> list[float] | None:
    """Parse 0.49,0.48,0.45 into numbers, those of a deviation above 0; None if it is empty."""
    try:
        numbers = [float(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = []
    valid = numbers is None or (numbers and (name != "std" or min(numbers) > 0))
    require(bool(valid), name, text, "e.g. 0.5 or 0.49,0.48,0.45")
    return numbers


def check_figure(path: Path) -> None:
    """Check the path of a figure, before any long computation.

    Raises:
        ThreeRegimeError: no such folder, or another file type.
    """
    writable = path.suffix in (".png", ".svg", ".pdf") and path.parent.is_dir()
    require(writable, "figure", str(path), "a .png, .svg or .pdf in a folder that is there")


def find_files(patterns: Sequence[str]) -> list[Path]:
    """Return files by path or pattern (``epoch_*.pt``), those of a pattern in order of number.

    Raises:
        ThreeRegimeError: a pattern matches no file.
    """
    files: dict[Path, None] = {}
    for pattern in patterns:
        # The name of a file may itself look like a pattern.
        paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern), key=_number_key)
        if not paths:
            raise ThreeRegimeError(f"{pattern} is missing: name a file of weights, or several")
        for path in paths:
            # A named pipe, or a device without an end, would be read for ever.
            if not Path(path).is_file():
                raise ThreeRegimeError(f"{path} is not a file: name a file of weights, or several")
        files |= dict.fromkeys(map(Path, paths))
    return list(files)


def _number_key(path: str) -> list[tuple[int, str]]:
    """Return a key that sorts epoch_2 before epoch_10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path)]


def name_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Return files by the shortest of stem, name and path that is unique."""
    for name in (lambda p: p.stem, lambda p: p.name, str):
        by_name = {name(path): path for path in paths}
        if len(by_name) == len(paths):
            break
    return by_name


def user_object(spec: str, keep: type | tuple[type, ...] = (), call: bool = True) -> Any:
    """Return an object of a user's file or of a package, or what a function returns.

    Args:
        spec: ``FILE.py:name`` or ``package.module:name``, for a function optionally with
            arguments, e.g. ``torchvision.models:resnet18(num_classes=10)``.
        keep: types of objects that are returned as they are, though they may be called.
        call: whether to call a function.

    Raises:
        ThreeRegimeError: no such file, module or name, or the function fails.
    """
    module, colon, text = spec.partition(":")
    name, arguments, options = _parse_call(text)
    if not (module and colon and name):
        raise ThreeRegimeError(
            f"{spec!r} is not of the form FILE.py:function or package.module:function"
        )
    missing = object()
    value = getattr(_import_module(module), name, missing)
    if value is missing:
        raise ThreeRegimeError(f"{module} has no function {name}")
    if isinstance(value, keep) or not call or not callable(value):
        return value
    try:
        return value(*arguments, **options)
    except Exception as error:
        raise ThreeRegimeError(f"{spec} fails: {_line(error)}") from error


def _parse_call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return the name and the constant arguments of a call, e.g. ``resnet18(num_classes=10)``."""
    if "(" not in text:
        return text.strip(), [], {}
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            raise ValueError
        options = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        return node.func.id, [ast.literal_eval(a) for a in node.args], options
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the latter: nested too deeply
        raise ThreeRegimeError(
            f"{shorten(text)} is no call of a function with numbers or words, "
            "e.g. build(classes=10)"
        ) from None


def _import_module(name: str) -> Any:
    """Import a module by the path of its file, or by its name, from the working folder too."""
    path = Path(name).resolve()
    # As when a file is run as a script, it can import the modules beside it.
    folder = str(path.parent if name.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        if not path.is_file():
            raise ThreeRegimeError(f"{name} is missing: name a Python file with a function")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except ThreeRegimeError:
        raise
    except (Exception, SystemExit) as error:
        raise ThreeRegimeError(f"{name} cannot be imported: {_line(error)}") from error
    finally:
        sys.path.remove(folder)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def user_data(spec: str, name: str = "data") -> Any:
    """Return what a user's function of data returns, or the path of a folder.

    Args:
        spec: a folder, or a function as in :func:`user_object`.
        name: name of the option, for the error.

    Raises:
        ThreeRegimeError: neither a folder nor a function.
    """
    path = Path(spec.removeprefix("folder:"))
    if not path.is_dir() and ":" in spec and not spec.startswith("folder:"):
        return user_object(spec)
    if not spec or not path.is_dir():
        raise ThreeRegimeError(
            f"{name} = {spec!r} is not there: name a folder with train/CLASS/IMAGE in it, or "
            "FILE.py:function"
        )
    return path
