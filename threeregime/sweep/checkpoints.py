"""Checkpoints: files of tensors with a checksum, and the measurements that they carry."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from threeregime._files import atomic_write
from threeregime.errors import DamagedFile
from threeregime.fleet import State
from threeregime.metrics import PairMetrics

EARLY_METRICS = ("lmc", "t_star", "cka_softmax", "cka_logits")
"""Metrics of pairs that are measured early in retraining."""
METADATA_KEY = "threeregime"
_ERRORS, _PAIRS = "extra", "pairs"
"""Prefixes of the tensors' names in a checkpoint."""


@dataclass
class EpochMeasurements:
    """Errors of members and metrics of pairs, by epoch.

    Attributes:
        test_error: test errors [M] after an epoch.
        train_error: training errors [M] after an epoch.
        pairs: metrics of pairs [P] after an epoch, by name.
    """

    test_error: dict[int, Tensor] = field(default_factory=dict)
    train_error: dict[int, Tensor] = field(default_factory=dict)
    pairs: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def add_pairs(self, epoch: int, metrics: PairMetrics) -> None:
        """Add the metrics of pairs after an epoch of retraining."""
        self.pairs[epoch] = {name: getattr(metrics, name) for name in EARLY_METRICS}

    def to_tensors(self) -> State:
        """Return all measurements by name, for a checkpoint."""
        errors = {
            f"{_ERRORS}/{kind}/{epoch}": values
            for kind in ("test_error", "train_error")
            for epoch, values in getattr(self, kind).items()
        }
        pairs = {
            f"{_PAIRS}/{name}/{epoch}": values
            for epoch, metrics in self.pairs.items()
            for name, values in metrics.items()
        }
        return errors | pairs

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor]) -> EpochMeasurements:
        """Return the measurements in a checkpoint; ignore its other tensors."""
        measurements = cls()
        for path, values in state.items():
            kind, _, rest = path.partition("/")
            name, _, epoch = rest.partition("/")
            if kind == _ERRORS:
                getattr(measurements, name)[int(epoch)] = values
            elif kind == _PAIRS:
                measurements.pairs.setdefault(int(epoch), {})[name] = values
        return measurements

    @staticmethod
    def is_of_pairs(name: str) -> bool:
        """Return whether a tensor of a checkpoint has one entry per pair instead of per member."""
        return name.startswith(f"{_PAIRS}/")


class DamagedCheckpoint(DamagedFile):
    """A checkpoint that cannot be used."""

    kind = "checkpoint"
    remedy = "run the sweep again: it sets the file aside and trains its nets from their start"


def write_state(path: Path, state: State, about: Mapping[str, Any] | None = None) -> None:
    """Write tensors with their checksum, by atomic rename.

    Args:
        path: the file.
        state: tensors by name.
        about: what the file says beside them, as plain values.
    """
    # safetensors requires contiguous tensors that share no memory.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    about = dict(about or {})
    text = json.dumps({**about, "sha256": _checksum(tensors, about)})
    # One entry: safetensors writes several in any order, and equal states are to be equal bytes.
    # Not by save_file: a killed one leaves a partial file of its own, which nobody knows.
    content = save(tensors, {METADATA_KEY: text})
    atomic_write(path, lambda partial: partial.write_bytes(content))


def read_state(path: Path, device: torch.device | str = "cpu") -> State:
    """Read the tensors of a checkpoint, and compare them with their checksum if there is one.

    Without one, tensors are taken as they are: nets that diverged have values that are no numbers.

    Raises:
        DamagedCheckpoint: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            about = _parse_about(file.metadata())
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(path, str(error)) from error
    expected = about.pop("sha256", None)
    if expected is not None and expected != _checksum(tensors, about):
        raise DamagedCheckpoint(path, "its checksum is another one")
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def read_about(path: Path) -> dict[str, Any]:
    """Return what a checkpoint says beside its tensors; empty if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return _parse_about(file.metadata())
    except (SafetensorError, OSError, ValueError):
        return {}


def _parse_about(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what a file's metadata say; files of before there were checksums say nothing.

    Raises:
        ValueError: they are not what a sweep writes.
    """
    try:
        return dict(json.loads((metadata or {}).get(METADATA_KEY, "{}")))
    except (TypeError, RecursionError) as error:
        raise ValueError(f"its metadata: {error}") from error


def is_intact(path: Path) -> bool:
    """Return whether a checkpoint is there and not damaged."""
    if not path.exists():
        return False
    try:
        read_state(path)
    except DamagedCheckpoint:
        return False
    return True


def set_aside(error: DamagedCheckpoint) -> None:
    """Rename a damaged checkpoint to NAME.broken, and say so on standard error."""
    with suppress(FileNotFoundError):  # another process was faster
        os.replace(error.path, error.path.with_name(f"{error.path.name}.broken"))
    print(
        f"threeregime: {error.path} is not a checkpoint ({' '.join(error.reason.split())}): set "
        "aside as .broken, its nets are trained from their start",
        file=sys.stderr,
    )


def _checksum(tensors: State, about: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors, their names, types and shapes, and plain values."""
    digest = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
