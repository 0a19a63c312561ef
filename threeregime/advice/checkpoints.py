"""Checkpoints: files of weights as people save them, and the state of a net that they hold.

A file is read without running code from it: PyTorch unpickles weights only, and every class that
it does not know is replaced by a placeholder that does nothing.
"""

from __future__ import annotations

import contextlib
import copy
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from threeregime.advice.model import BATCH_COUNT, PrunableNet, fold, state_of
from threeregime.errors import ThreeRegimeError

MAX_DEPTH = 3
"""Largest number of mappings around the weights in a checkpoint."""
MAX_UNKNOWN = 200
"""Largest number of unknown classes in a file."""
KEYS = ("state_dict", "model_state_dict", "model", "net", "weights", "module", "ema")
"""Usual names of the weights in a checkpoint; the first of several is used."""
COUNTERS = ("n_averaged", "total_ops", "total_params")
"""Tensors that training tools add to a state_dict, with no counterpart in the net."""


class Placeholder:
    """An object of a class that is not loaded; it keeps its attributes and runs nothing."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.attributes: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state

    def tensors(self, prefix: str = "") -> dict[str, Any]:
        """Return parameters and buffers by name, if the object was a module."""
        found: dict[str, Any] = {}
        attributes = self.attributes if isinstance(self.attributes, Mapping) else {}
        for kind in ("_parameters", "_buffers"):
            found |= {prefix + n: t for n, t in attributes.get(kind, {}).items() if t is not None}
        for name, layer in attributes.get("_modules", {}).items():
            if isinstance(layer, Placeholder):
                found |= layer.tensors(f"{prefix}{name}.")
        return found


def read_weights(path: Path) -> Mapping[str, Any]:
    """Read what ``torch.save`` wrote, or a file of safetensors; no code in the file is run.

    Raises:
        ThreeRegimeError: the file is missing, or holds something else.
    """
    if not path.is_file():
        what = "is a folder: name a file in it" if path.is_dir() else "is missing: name a file"
        raise ThreeRegimeError(f"{path} {what} of weights")
    with path.open("rb") as file:
        head = file.read(512)
    _check_kind(path, head)
    try:
        if path.suffix == ".safetensors" or head[8:9] == b"{":
            from safetensors.torch import load_file

            return load_file(path)
        weights = _load_pickle(path)
    except Exception as error:
        # PyTorch's own message may recommend to run the code in the file: it is not passed on.
        raise ThreeRegimeError(
            f"{path} is no file of weights, or is cut short: make one by "
            f"torch.save(net.state_dict(), path) ({type(error).__name__})"
        ) from error
    if isinstance(weights, Placeholder):
        weights = weights.tensors()
    if not isinstance(weights, Mapping):
        raise ThreeRegimeError(
            f"{path} holds a {type(weights).__name__}, no weights by name: save net.state_dict()"
        )
    return weights


def _check_kind(path: Path, head: bytes) -> None:
    """Refuse files that are well known not to hold weights."""
    kinds = {
        b"": "is empty: save or download it again",
        b"version https://git-lfs": "is a pointer of Git LFS, not the weights: run git lfs pull",
        b"<": "is a web page, not the weights: download the file itself",
        b"{": "is JSON, not the weights: name the file of weights beside it",
        b"\x89HDF": "is HDF5, as Keras saves weights: save net.state_dict() of a PyTorch net",
    }
    start = head.lstrip()
    for begin, meaning in kinds.items():
        if start.startswith(begin) if begin else not start:
            raise ThreeRegimeError(f"{path} {meaning}")


def _load_pickle(path: Path) -> Any:
    """Load weights only, with a placeholder for each class that PyTorch does not know."""
    known: list[Any] = []
    with contextlib.suppress(Exception):  # other than a zip file: names are found one by one
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        known = [(Placeholder, name) for name in names]
    for _ in range(MAX_UNKNOWN):
        try:
            checked = torch.sparse.check_sparse_tensor_invariants()
            with torch.serialization.safe_globals(known), checked:
                return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            unknown = re.search(r"Unsupported (?:global|operand|class)\S* GLOBAL (\S+)", str(error))
            if unknown is None or any(name == unknown[1] for _, name in known):
                raise
            known += [(Placeholder, unknown[1])]
    raise ThreeRegimeError(f"{path} names more than {MAX_UNKNOWN} unknown classes")


def load_states(net: PrunableNet, checkpoints: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the states of a net that checkpoints hold, by name: weights, or paths of files."""
    states = {}
    for name, value in checkpoints.items():
        weights = read_weights(Path(value)) if isinstance(value, str | Path) else value
        states[str(name)] = load_weights(net, weights, str(name))
    return states


def load_weights(net: PrunableNet, weights: Any, name: str) -> dict[str, Tensor]:
    """Return the state of a net with the weights of a checkpoint.

    Args:
        net: a net of the same architecture.
        weights: a state_dict, or a mapping that holds one, under any key; prefixes that wrappers
            add to all names (``module.``, ``_orig_mod.``, ``model.``) are removed. Weights that
            are pruned, normalized or sparse are made plain.
        name: name of the checkpoint in errors.

    Raises:
        ThreeRegimeError: another architecture, or no state_dict.
    """
    candidates = _candidates(weights)
    if not candidates:
        keys = f" among {_some(weights)}" if isinstance(weights, Mapping) and weights else ""
        raise ThreeRegimeError(
            f"{name} holds no weights by name{keys}: save net.state_dict() (or "
            '{"state_dict": net.state_dict()})'
        )
    loaded: nn.Module | None = None
    complaint = ""
    for module in (net.plain, net.unfolded):
        fitting = {key: _fit(module, tensors) for key, tensors in candidates.items()}
        # The largest share of the net's names; of equal ones the first.
        best = max(fitting, key=lambda key: _share(module, fitting[key]))
        mismatches = _mismatches(module, fitting[best])
        if not mismatches:
            loaded = copy.deepcopy(module)
            loaded.load_state_dict(_checked(fitting[best], name), strict=False)
            return {f"net.{n}": t for n, t in state_of(fold(loaded)[0]).items()}
        complaint = complaint or f"{name} is of another architecture: {'; '.join(mismatches)}"
    raise ThreeRegimeError(complaint)


def _some(weights: Mapping[Any, Any]) -> str:
    keys = [str(key) for key in weights]
    return ", ".join(keys[:6]) + (", .." if len(keys) > 6 else "")


def _candidates(weights: Any, path: str = "", depth: int = 0) -> dict[str, dict[str, Any]]:
    """Return the mappings of tensors in a checkpoint by their path, the usual ones first."""
    if isinstance(weights, nn.Module):
        weights = weights.state_dict()
    if isinstance(weights, Placeholder):
        weights = weights.tensors()
    if not isinstance(weights, Mapping) or depth > MAX_DEPTH:
        return {}
    found: dict[str, dict[str, Any]] = {}
    texts = all(isinstance(key, str) for key in weights)
    if texts and any(isinstance(value, Tensor) for value in weights.values()):
        found[path] = {n: t for n, t in weights.items() if not isinstance(t, Mapping)}
    order = sorted(weights, key=lambda key: KEYS.index(key) if key in KEYS else len(KEYS))
    for key in order:
        if isinstance(key, str) and not key.startswith("optim"):
            found |= _candidates(weights[key], f"{path}/{key}", depth + 1)
    return found


def _fit(net: nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors under the names of a net: without prefixes, and plain."""
    tensors = _plain({n.replace("_orig_mod.", ""): t for n, t in tensors.items()})
    names = [n for n in net.state_dict() if BATCH_COUNT not in n]
    tails = {name.rpartition(".")[2] for name in names}
    added: Counter[str] = Counter()
    known = set(names)
    for given in tensors:
        if given.rpartition(".")[2] in tails:
            parts = given.split(".")
            for cut in range(len(parts)):
                if ".".join(parts[cut:]) in known:
                    added[".".join([*parts[:cut], ""]) if cut else ""] += 1
    prefix = max(added, key=lambda p: (added[p], -len(p)), default="")
    # What lies beside the net, e.g. a loss with weights in a Lightning module, is not the net's.
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    # The reverse: the user's class wraps the net whose weights were saved.
    wrapped = Counter(n.removesuffix(g) for n in names for g in own if n.endswith("." + g))
    whole = [p for p, count in wrapped.items() if count == len(own) == len(names)]
    if not added and whole:
        own = {whole[0] + n: t for n, t in own.items()}
    return {n: t for n, t in own.items() if n.rpartition(".")[2] not in COUNTERS}


def _plain(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return tensors with masks applied, weight norm computed, and none sparse or quantised."""
    plain: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) and not tensor.is_meta:
            if tensor.layout != torch.strided:
                tensor = tensor.to_dense()
            if tensor.is_quantized:
                tensor = tensor.dequantize()
        plain[name] = tensor
    for name in [n for n in plain if n.endswith("_orig")]:
        stem = name.removesuffix("_orig")
        if f"{stem}_mask" in plain:
            plain[stem] = plain.pop(name) * plain.pop(f"{stem}_mask")
    forms = (("weight_g", "weight_v"), (f"{_PARAMETRIZED}0", f"{_PARAMETRIZED}1"))
    for size_name, direction_name in forms:
        for name in [n for n in plain if n.endswith(size_name)]:
            other = name.removesuffix(size_name) + direction_name
            if other in plain:
                size, direction = plain.pop(name), plain.pop(other)
                axes = [axis for axis, length in enumerate(size.shape) if length == 1]
                # Weight norm of a whole tensor has one size, without axes.
                norm = direction.norm(dim=axes or None, keepdim=bool(axes))
                plain[name.removesuffix(size_name) + "weight"] = direction * (size / norm)
    return plain


_PARAMETRIZED = "parametrizations.weight.original"


def _share(net: nn.Module, tensors: Mapping[str, Any]) -> float:
    """Return the share of a net's tensors that are there."""
    names = [n for n in net.state_dict() if BATCH_COUNT not in n]
    return sum(n in tensors for n in names) / max(1, len(names))


def _checked(tensors: dict[str, Any], name: str) -> dict[str, Any]:
    """Return tensors, once all of them have values."""
    meta = [n for n, t in tensors.items() if isinstance(t, Tensor) and t.is_meta]
    if meta:
        raise ThreeRegimeError(
            f"{name} has no values for {meta[0]} (a tensor on the meta device): save the weights "
            "of a net that is loaded"
        )
    return tensors


def _mismatches(net: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Return the first missing, unknown and differently shaped tensor of a checkpoint, in words."""
    tensors = net.state_dict(keep_vars=True)
    if any("_packed_params" in n for n in weights):
        return ["it is of a quantised net: give the weights from before"]
    # A file may hold only one of tied weights.
    loaded = {id(tensors[n]) for n in weights if n in tensors}
    missing = [
        f"it lacks {n}"
        for n, t in tensors.items()
        if n not in weights and id(t) not in loaded and BATCH_COUNT not in n
    ]
    unknown = [f"{n} is not in the net" for n in weights if n not in tensors]
    shapes = []
    for n, t in weights.items():
        expected = tensors.get(n)
        if isinstance(expected, Tensor) and getattr(t, "shape", None) != expected.shape:
            shape = list(t.shape) if hasattr(t, "shape") else "no tensor"
            shapes.append(f"{n} is {shape}, in the net {list(expected.shape)}")
    return [lines[0] for lines in (missing, unknown, shapes) if lines]
