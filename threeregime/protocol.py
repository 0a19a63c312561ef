"""The protocol of a cell: data, net, dense run, pruning, retraining and metrics.

The defaults are the paper's CIFAR-10 constants (Section 3.1, Appendix B.1; where the paper is
silent, the authors' published scripts). A field at its default stays out of the hash, so that new
options do not change the identity of old results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from threeregime._fields import Section, Tables, from_tables, shorten, to_table
from threeregime.errors import ThreeRegimeError


@dataclass(frozen=True)
class Data(Section):
    """The data set and its augmentation.

    ``name`` is an entry of :data:`threeregime.data.DATASETS` or, for sentences, of
    :data:`threeregime.data.TRANSLATIONS`, or ``folder:PATH`` for a folder of images in
    torchvision's ``ImageFolder`` layout with ``train`` and ``test`` below it. ``crop`` is the zero
    padding of the random crop in pixels; ``flip`` mirrors images left to right with probability
    1/2. ``images`` is the number of training images to keep, the same number of each class, and
    ``size`` the side in pixels to which averaging shrinks them; None keeps all as they are. Of
    sentences, ``images`` keeps the first pairs; the other fields do not apply.
    """

    section = "data"
    name: str = "cifar10"
    crop: int = 4
    flip: bool = True
    images: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        self.check(self.crop >= 0, "crop", "0 or more pixels")
        self.check(self.images is None or self.images > 0, "images", "1 or more")
        self.check(self.size is None or self.size > 0, "size", "1 or more pixels")


MAX_WIDTH = 1000
"""Largest width factor: the weights of a single layer would take hundreds of gigabytes."""


@dataclass(frozen=True)
class Net(Section):
    """The architecture: an entry of :data:`threeregime.models.NETS`, its depth and width factor."""

    section = "net"
    name: str = "preresnet"
    depth: int = 20
    width: float = 1.0

    def __post_init__(self) -> None:
        allowed = f"a factor above 0, at most {MAX_WIDTH}"
        self.check(0 < self.width <= MAX_WIDTH, "width", allowed)


OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("milestones", "inverse_sqrt")


@dataclass(frozen=True)
class Training(Section):
    """One run of an optimizer over ``epochs`` epochs, with a schedule of the learning rate.

    ``optimizer`` is ``sgd``, with ``momentum``, or ``adam``; both with L2 ``weight_decay``. The
    schedule ``milestones`` multiplies the rate by ``decay`` at each of these epochs;
    ``inverse_sqrt`` raises it to ``lr`` over ``warmup`` steps and then lowers it with the inverse
    square root of the step (Vaswani et al., 2017). ``iterations`` sets the number of steps whatever
    the batch size, with the milestones at the same fraction of the run, which makes the batch size
    a temperature (Appendix B.2). ``smoothing`` is the label smoothing.
    """

    section = "training"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 64
    epochs: int = 160
    milestones: tuple[int, ...] = (80, 120)
    decay: float = 0.1
    optimizer: str = "sgd"
    schedule: str = "milestones"
    warmup: int = 0
    iterations: int | None = None
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        self.check(self.lr > 0, "lr", "a rate above 0")
        self.check(0 <= self.momentum < 1, "momentum", "from 0 to below 1")
        self.check(self.weight_decay >= 0, "weight_decay", "0 or more")
        self.check(self.batch_size >= 1, "batch_size", "1 or more images")
        self.check(self.epochs >= 1, "epochs", "1 or more")
        # Each epoch is below the next one, from 0 to the end of the run.
        increasing = all(a < b for a, b in pairwise((0, *self.milestones, self.epochs)))
        allowed = f"increasing epochs before the last one, {self.epochs}"
        self.check(increasing, "milestones", allowed)
        self.check(0 < self.decay <= 1, "decay", "in (0, 1]")
        self.check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}")
        self.check(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        warms_up = self.schedule == "inverse_sqrt"
        allowed = "1 or more steps with inverse_sqrt, else 0"
        self.check((self.warmup > 0) == warms_up, "warmup", allowed)
        self.check(0 <= self.smoothing < 1, "smoothing", "from 0 to below 1")
        self.check(self.iterations is None or self.iterations > 0, "iterations", "1 or more")

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        if self.schedule == "inverse_sqrt":
            return self.lr * min((step + 1) / self.warmup, (self.warmup / (step + 1)) ** 0.5)
        epoch = step * self.epochs / self.iterations if self.iterations else step // steps_per_epoch
        return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of steps of the run."""
        return self.iterations or self.epochs * steps_per_epoch


@dataclass(frozen=True)
class Dense(Training):
    """The dense run.

    ``stop`` ends it at an earlier epoch of the same schedule; None: at its end. Early stopping is
    the paper's first temperature: fewer epochs are hotter. All stops are checkpoints of one run
    (Appendix B.1, scripts). ``rho`` above 0 is the radius of sharpness-aware minimization (SAM;
    Foret et al., 2021), the third temperature.
    """

    section = "dense"
    stop: int | None = None
    rho: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        in_run = self.stop is None or 1 <= self.stop <= self.epochs
        self.check(in_run, "stop", f"an epoch from 1 to {self.epochs}")
        by_epochs = self.stop is None or self.iterations is None
        self.check(by_epochs, "stop", "left out where dense.iterations is given")
        self.check(self.rho >= 0, "rho", "0 or more")

    @property
    def stopped(self) -> int:
        """Number of epochs of the dense run before pruning."""
        return self.stop if self.stop is not None else self.epochs


@dataclass(frozen=True)
class Retraining(Training):
    """Training of the pruned net with a new optimizer and a fixed mask."""

    section = "retraining"


@dataclass(frozen=True)
class Pruning(Section):
    """Compression of the dense net: pruning to ``density``, or quantization to ``bits``.

    ``density`` is the fraction of the convolution weights to keep (of a Transformer, of its linear
    layers), those of largest magnitude. ``uniform`` applies it to every layer (UniformMP),
    ``global`` to all weights together (GlobalMP; Section 2.3), and ``n:m`` to each ``group`` of
    neighbours (:mod:`threeregime.pruning.magnitude`). ``quantization`` keeps all weights, with
    ``bits`` each (:mod:`threeregime.pruning.quantization`).
    """

    section = "pruning"
    method: str = "uniform"
    density: float = 0.05
    group: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        self.check(0 < self.density <= 1, "density", "a fraction in (0, 1]")
        group, bits = self.group, self.bits
        fits = group is None if self.method != "n:m" else group is not None and group >= 2
        self.check(fits, "group", "2 or more weights with n:m, else left out")
        if group is not None:
            weights = round(self.density * group)
            whole = weights >= 1 and math.isclose(weights, self.density * group)
            allowed = f"a multiple of 1/{group}, whole weights of each group of {group}"
            self.check(whole, "density", allowed)
        quantized = self.method == "quantization"
        fits = bits is not None and 1 <= bits <= 16 if quantized else bits is None
        self.check(fits, "bits", "from 1 to 16 with quantization, else left out")
        self.check(not quantized or self.density == 1, "density", "1 with quantization")


@dataclass(frozen=True)
class Metrics(Section):
    """How errors, LMC and CKA are measured.

    ``error_epochs``: number of last epochs of retraining to average the test error over (scripts).
    ``points``: number of points on the line between two copies.
    ``samples``: number of training images for CKA, or all if there are fewer (scripts).
    ``early``: epochs of retraining after which LMC, CKA and test error are measured as well.
    ``hessian``: number of random vectors and of iterations for the trace and the leading eigenvalue
    of every net's Hessian (:mod:`threeregime.metrics.hessian`); 0: not measured.
    """

    section = "metrics"
    error_epochs: int = 5
    points: int = 11
    samples: int = 6464
    early: tuple[int, ...] = ()
    hessian: int = 0

    def __post_init__(self) -> None:
        self.check(self.error_epochs >= 1, "error_epochs", "1 or more")
        self.check(self.points >= 3, "points", "3 or more")
        self.check(self.samples >= 2, "samples", "2 or more")
        increasing = all(a < b for a, b in pairwise((0, *self.early)))
        self.check(increasing, "early", "increasing epochs from 1 on")
        self.check(self.hessian >= 0, "hessian", "0 or more vectors")


@dataclass(frozen=True)
class Protocol:
    """The recipe of one cell, without seeds."""

    data: Data = field(default_factory=Data)
    net: Net = field(default_factory=Net)
    dense: Dense = field(default_factory=Dense)
    pruning: Pruning = field(default_factory=Pruning)
    retraining: Retraining = field(default_factory=Retraining)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        metrics, retraining = self.metrics, self.retraining
        by_epochs = not metrics.early or retraining.iterations is None
        metrics.check(by_epochs, "early", "left out where retraining.iterations is given")
        in_run = not metrics.early or metrics.early[-1] <= retraining.epochs
        metrics.check(in_run, "early", f"epochs of retraining, at most {retraining.epochs}")

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]]) -> Protocol:
        """Make a protocol from the nested tables of TOML.

        Raises:
            ThreeRegimeError: an unknown section or field, a value of the wrong type or range.
        """
        protocol: Protocol = from_tables(cls, sections)
        return protocol

    def replace(self, path: str, value: Any) -> Protocol:
        """Return a copy with one field changed, e.g. ``replace("pruning.density", 0.05)``."""
        return self.update({path: value})

    def update(self, fields: Mapping[str, Any]) -> Protocol:
        """Return a copy with several fields, by path, changed at once.

        Raises:
            ThreeRegimeError: a path is not SECTION.FIELD, an unknown section or field, a value of
                the wrong type or range.
        """
        tables = self.to_dict()
        for path, value in fields.items():
            if path.count(".") != 1:
                raise ThreeRegimeError(
                    f"{shorten(path)} is not of the form SECTION.FIELD, e.g. net.width"
                )
            section, _, name = path.partition(".")
            tables.setdefault(section, {})[name] = value
        return self.from_dict(tables)

    def get(self, path: str) -> Any:
        """Return the value of a field, e.g. ``get("pruning.density")``."""
        section, _, name = path.partition(".")
        return getattr(getattr(self, section), name)

    def to_dict(self, defaults: bool = True) -> Tables:
        """Return nested plain values; with ``defaults=False`` only those that are not defaults."""
        tables = {
            f.name: to_table(getattr(self, f.name), defaults) for f in dataclasses.fields(self)
        }
        return {name: values for name, values in tables.items() if defaults or values}

    def hash(self, *sections: str, without: Collection[str] = ()) -> str:
        """Return the identity of the recipe, or of some sections: 12 hexadecimal digits.

        Fields in ``without`` count as if they had their defaults.
        """
        tables: Tables = {}
        for section, values in self.to_dict(defaults=False).items():
            fields = {n: v for n, v in values.items() if f"{section}.{n}" not in without}
            if fields and (not sections or section in sections):
                tables[section] = fields
        text = json.dumps(tables, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def dense_hash(self) -> str:
        """Identity of the dense run, shared by all of its early stops."""
        return self.replace("dense.stop", None).hash("data", "net", "dense")
