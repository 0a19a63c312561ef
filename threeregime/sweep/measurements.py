"""Measurements of a fleet between its epochs, which its checkpoint carries until the tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from threeregime.fleet import State
from threeregime.metrics import PairMetrics

EARLY_METRICS = ("lmc", "t_star", "cka_softmax", "cka_logits")
"""Metrics of pairs that are measured early in retraining."""
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
