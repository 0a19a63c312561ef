"""Nets, data and weights named on the command line: FILE.py:function, epoch_*.pt, a folder."""

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

from threeregime.advice.model import is_grey
from threeregime.advice.user_data import load_folder
from threeregime.errors import ThreeRegimeError


def call_function(spec: str) -> Any:
    """What a function of a user's own returns.

    Args:
        spec: ``FILE.py:function`` or ``package.module:function``, followed if need be by what it is
            called with, e.g. ``torchvision.models:resnet18(num_classes=10)``.

    Raises:
        ThreeRegimeError: no such file, module or function, or it fails.
    """
    where, colon, call = spec.partition(":")
    name, arguments, options = _call(call)
    if not (where and colon and name):
        raise ThreeRegimeError(
            f"{spec!r} is not of the form FILE.py:function or package.module:function"
        )
    function = getattr(_module(where), name, None)
    if not callable(function):
        raise ThreeRegimeError(f"{where} has no function {name}")
    try:
        return function(*arguments, **options)
    except Exception as error:
        raise ThreeRegimeError(f"{spec} fails: {_line(error)}") from error


def _call(text: str) -> tuple[str, list[Any], dict[str, Any]]:
    """Name and constant arguments of a call, e.g. of ``resnet18(num_classes=10)``."""
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


def _module(where: str) -> Any:
    """A module by the path of its file or by its name."""
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where).resolve()
        if not path.is_file():
            raise ThreeRegimeError(f"{where} is missing: name a Python file with a function")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        # As if the file was run: what lies beside it can be imported.
        sys.path.insert(0, str(path.parent))
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(path.parent))
        return module
    except ThreeRegimeError:
        raise
    except Exception as error:
        raise ThreeRegimeError(f"{where} cannot be imported: {_line(error)}") from error


def files(patterns: Sequence[str]) -> list[Path]:
    """Files by path or pattern (``epoch_*.pt``), those of a pattern in the order of their numbers.

    Raises:
        ThreeRegimeError: none is there.
    """
    found: list[Path] = []
    for pattern in patterns:
        # A name may itself look like a pattern.
        paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern), key=_by_number)
        if not paths:
            raise ThreeRegimeError(f"{pattern} is missing: name a file of weights, or several")
        found += map(Path, paths)
    return list(dict.fromkeys(found))


def _by_number(path: str) -> list[tuple[int, str]]:
    """A key by which epoch_2 comes before epoch_10."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", path)]


def name_files(paths: Sequence[Path]) -> dict[str, Path]:
    """Files by as much of their name as tells them apart."""
    for name in (lambda p: p.stem, lambda p: p.name, str):
        by_name = {name(path): path for path in paths}
        if len(by_name) == len(paths):
            break
    return by_name


def read_weights(path: Path) -> Mapping[str, Any]:
    """Weights from a file of ``torch.save(net.state_dict(), path)``, or from .safetensors.

    No code of the file's is run.

    Raises:
        ThreeRegimeError: it is missing, or holds something else.
    """
    if not path.is_file():
        raise ThreeRegimeError(f"{path} is missing: name a file of weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ThreeRegimeError(
            f"{path} is no file of weights: make one by torch.save(net.state_dict(), path) "
            f"({_line(error)})"
        ) from error
    if not isinstance(loaded, Mapping):
        raise ThreeRegimeError(
            f"{path} holds a {type(loaded).__name__}, no weights by name: save net.state_dict()"
        )
    return loaded


def check_figure(path: Path) -> None:
    """See that a figure can be written there, before anything long begins.

    Raises:
        ThreeRegimeError: no such folder, or another kind of file.
    """
    if path.suffix not in (".png", ".svg", ".pdf") or not path.parent.is_dir():
        raise ThreeRegimeError(
            f"figure = {str(path)!r} is not allowed: a .png, .svg or .pdf in a folder that is there"
        )


def load_data(
    spec: str, net: nn.Module, most: int, seed: int, mean: str = "", std: str = ""
) -> tuple[Any, Any]:
    """Training and test data of the command line; None where there are no test data.

    Args:
        spec: a folder of images, or a function as in `call_function` that returns training data.
        net: what is to read them.
        most: as in `threeregime.advice.user_data.folder`.
        seed: likewise.
        mean: numbers with commas between them; empty: measured on the images.
        std: likewise.

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
    return load_folder(path, most, seed, is_grey(net), _numbers("mean", mean), _numbers("std", std))


def _numbers(name: str, text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split(",")] if text else None
    except ValueError:
        numbers = []
    if numbers == [] or (numbers and name == "std" and min(numbers) <= 0):
        raise ThreeRegimeError(f"{name} = {text!r} is not allowed: e.g. 0.5 or 0.49,0.48,0.45")
    return numbers


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
