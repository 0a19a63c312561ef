"""Nets, data and weights as the command line names them: FILE.py:function, epoch_*.pt."""

from __future__ import annotations

import ast
import glob
import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from threeregime._fields import require
from threeregime.advice.model import is_grey
from threeregime.advice.user_data import load_folder
from threeregime.errors import ThreeRegimeError


def call_function(spec: str) -> Any:
    """Call a function of a user's file or of a package, and return its result.

    Args:
        spec: ``FILE.py:function`` or ``package.module:function``, optionally with arguments, e.g.
            ``torchvision.models:resnet18(num_classes=10)``.

    Raises:
        ThreeRegimeError: no such file, module or function, or it fails.
    """
    module, colon, call = spec.partition(":")
    name, arguments, options = _parse_call(call)
    if not (module and colon and name):
        raise ThreeRegimeError(
            f"{spec!r} is not of the form FILE.py:function or package.module:function"
        )
    function = getattr(_import_module(module), name, None)
    if not callable(function):
        raise ThreeRegimeError(f"{module} has no function {name}")
    try:
        return function(*arguments, **options)
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
    except (SyntaxError, ValueError):
        raise ThreeRegimeError(
            f"{text!r} is no call of a function with numbers or words, e.g. build(classes=10)"
        ) from None


def _import_module(name: str) -> Any:
    """Import a module by its name or by the path of its file."""
    try:
        if not name.endswith(".py"):
            return importlib.import_module(name)
        path = Path(name).resolve()
        if not path.is_file():
            raise ThreeRegimeError(f"{name} is missing: name a Python file with a function")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # As when the file is run as a script, it can import the modules beside it.
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module
    except ThreeRegimeError:
        raise
    except Exception as error:
        raise ThreeRegimeError(f"{name} cannot be imported: {_line(error)}") from error


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


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read weights written by ``torch.save(net.state_dict(), path)``, or from .safetensors.

    No code in the file is run.

    Raises:
        ThreeRegimeError: the file is missing, or holds something else.
    """
    if not path.is_file():
        raise ThreeRegimeError(f"{path} is missing: name a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ThreeRegimeError(
            f"{path} is no file of weights: make one by torch.save(net.state_dict(), path) "
            f"({_line(error)})"
        ) from error
    if not isinstance(weights, Mapping):
        raise ThreeRegimeError(
            f"{path} holds a {type(weights).__name__}, no weights by name: save net.state_dict()"
        )
    return weights


def check_figure(path: Path) -> None:
    """Check the path of a figure, before any long computation.

    Raises:
        ThreeRegimeError: no such folder, or another file type.
    """
    writable = path.suffix in (".png", ".svg", ".pdf") and path.parent.is_dir()
    require(writable, "figure", str(path), "a .png, .svg or .pdf in a folder that is there")


def load_data(
    spec: str, net: nn.Module, max_examples: int, seed: int, mean: str = "", std: str = ""
) -> tuple[Any, Any]:
    """Return training data, and test data or None.

    Args:
        spec: a folder of images, or a function as in `call_function` that returns training data.
        net: decides whether images are grey.
        max_examples, seed: as in :func:`threeregime.advice.user_data.load_folder`.
        mean, std: as there, as numbers with commas between them; empty: those of the images.

    Raises:
        ThreeRegimeError: neither a folder with images nor a function.
    """
    path = Path(spec.removeprefix("folder:"))
    if not path.is_dir() and ":" in spec and not spec.startswith("folder:"):
        return call_function(spec), None
    if not spec or not path.is_dir():
        raise ThreeRegimeError(
            f"data = {spec!r} is not there: name a folder with train/CLASS/IMAGE in it, or "
            "FILE.py:function"
        )
    channels = _parse_numbers("mean", mean), _parse_numbers("std", std)
    return load_folder(path, max_examples, seed, is_grey(net), *channels)


def _parse_numbers(name: str, text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = []
    valid = numbers is None or (numbers and (name != "std" or min(numbers) > 0))
    require(bool(valid), name, text, "e.g. 0.5 or 0.49,0.48,0.45")
    return numbers


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
