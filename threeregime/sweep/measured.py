"""What is measured of a fleet between its epochs, until its tables are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from threeregime.fleet import State
from threeregime.metrics import PairMetrics

EARLY_METRICS = ("lmc", "t_star", "cka_softmax", "cka_logits")
"""Metrics of pairs that are taken early in retraining."""
_ERRORS, _PAIRS = "extra", "pairs"


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
        """Keep the metrics of pairs after an epoch of retraining."""
        self.pairs[epoch] = {name: getattr(metrics, name) for name in EARLY_METRICS}

    def to_tensors(self) -> State:
        """Return everything by name, for a checkpoint."""
        kinds = {"test_error": self.test_error, "train_error": self.train_error}
        errors = {
            f"{_ERRORS}/{kind}/{epoch}": values
            for kind, by_epoch in kinds.items()
            for epoch, values in by_epoch.items()
        }
        pairs = {
            f"{_PAIRS}/{name}/{epoch}": values
            for epoch, by_name in self.pairs.items()
            for name, values in by_name.items()
        }
        return errors | pairs

    @classmethod
    def from_tensors(cls, state: Mapping[str, Tensor]) -> EpochMeasurements:
        """Read what :meth:`to_tensors` returned; other tensors are left out."""
        made = cls()
        for path, values in state.items():
            kind, _, rest = path.partition("/")
            name, _, epoch = rest.partition("/")
            if kind == _ERRORS:
                getattr(made, name)[int(epoch)] = values
            elif kind == _PAIRS:
                made.pairs.setdefault(int(epoch), {})[name] = values
        return made

    @staticmethod
    def is_of_pairs(name: str) -> bool:
        """Return whether a tensor of a checkpoint has a row a pair, not a member."""
        return name.startswith(f"{_PAIRS}/")
