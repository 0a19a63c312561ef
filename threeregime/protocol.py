"""Everything that determines a number: data, net, dense run, pruning, retraining, metrics.

The defaults are the paper's CIFAR-10 constants (Section 3.1, Appendix B.1; where the paper is
silent, the authors' published scripts). A field left at its default stays out of the hash, so that
an option added later leaves the identity of old results as it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from threeregime._fields import Tables, built, merged, require, table


@dataclass(frozen=True)
class Data:
    """The data set and its augmentation.

    ``name`` is an entry of :data:`threeregime.data.registry.DATASETS` or, of sentences,
    :data:`threeregime.data.translation.TRANSLATIONS`, or ``folder:PATH`` for a folder in
    torchvision's
    ``ImageFolder`` layout with ``train`` and ``test`` below it. ``crop`` is the zero
    padding in pixels of the random crop; ``flip`` mirrors half of the images left to right.
    ``images`` keeps so many training images, the same number of each class, and ``size`` shrinks
    images to so many pixels a side by averaging; None keeps all of them as they are. Of sentences
    ``images`` keeps the first so many pairs, and there is nothing to crop, flip or shrink.
    """

    name: str = "cifar10"
    crop: int = 4
    flip: bool = True
    images: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        require(self.crop >= 0, "data.crop", self.crop, "0 or more pixels")
        require(self.images is None or self.images > 0, "data.images", self.images, "1 or more")
        require(self.size is None or self.size > 0, "data.size", self.size, "1 or more pixels")


@dataclass(frozen=True)
class Net:
    """The architecture: an entry of :data:`threeregime.models.registry.NETS`, its depth and width
    factor.
    """

    name: str = "preresnet"
    depth: int = 20
    width: float = 1.0

    def __post_init__(self) -> None:
        require(self.width > 0, "net.width", self.width, "a factor above 0")


OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("milestones", "inverse_sqrt")


@dataclass(frozen=True)
class Training:
    """One run of an optimizer: ``epochs`` passes at a rate that follows a schedule.

    ``optimizer`` is ``sgd``, with ``momentum``, or ``adam``; both with L2 ``weight_decay``. Under
    the schedule ``milestones`` the rate is multiplied by ``decay`` at each of these epochs; under
    ``inverse_sqrt`` it grows to ``lr`` over ``warmup`` steps and then falls as one over the root of
    the step (Vaswani et al., 2017). With ``iterations`` the run has so many steps, whatever the
    batch size, and the milestones stay at the same share of it: that makes the batch size a
    temperature (Appendix B.2). ``smoothing`` is the share of each target that is spread over all
    classes (label smoothing; 0.1 in Vaswani et al., 2017).
    """

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
        where = {Dense: "dense", Retraining: "retraining"}.get(type(self), "training")
        require(self.lr > 0, f"{where}.lr", self.lr, "a rate above 0")
        require(0 <= self.momentum < 1, f"{where}.momentum", self.momentum, "from 0 to below 1")
        decay = self.weight_decay
        require(decay >= 0, f"{where}.weight_decay", decay, "0 or more")
        require(self.batch_size >= 1, f"{where}.batch_size", self.batch_size, "1 or more images")
        require(self.epochs >= 1, f"{where}.epochs", self.epochs, "1 or more")
        ordered = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        inside = all(0 < m < self.epochs for m in self.milestones)
        require(
            ordered and inside,
            f"{where}.milestones",
            list(self.milestones),
            f"increasing epochs before the last one, {self.epochs}",
        )
        require(0 < self.decay <= 1, f"{where}.decay", self.decay, "in (0, 1]")
        self._check_choices(where)

    def _check_choices(self, where: str) -> None:
        for name, allowed in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            value = getattr(self, name)
            require(value in allowed, f"{where}.{name}", value, f"one of {', '.join(allowed)}")
        warms_up = self.schedule == "inverse_sqrt"
        allowed_warmup = "1 or more steps with inverse_sqrt, else 0"
        require((self.warmup > 0) == warms_up, f"{where}.warmup", self.warmup, allowed_warmup)
        smoothing = self.smoothing
        require(0 <= smoothing < 1, f"{where}.smoothing", smoothing, "from 0 to below 1")
        iterations = self.iterations
        require(
            iterations is None or iterations > 0, f"{where}.iterations", iterations, "1 or more"
        )

    def rate(self, step: int, per_epoch: int) -> float:
        """Learning rate of a step, counted from 0, where an epoch has so many."""
        if self.schedule == "inverse_sqrt":
            return self.lr * min((step + 1) / self.warmup, (self.warmup / (step + 1)) ** 0.5)
        epoch = step * self.epochs / self.iterations if self.iterations else step // per_epoch
        return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)

    def steps(self, per_epoch: int) -> int:
        """Number of steps of the whole run, where an epoch has so many."""
        return self.iterations or self.epochs * per_epoch


@dataclass(frozen=True)
class Dense(Training):
    """The dense run. ``stop`` ends it early, at that epoch of the same schedule (None: at its end).

    Early stopping is the paper's first temperature: fewer epochs are hotter. All stops of one run
    are checkpoints of that one run (Appendix B.1, scripts). ``rho`` above 0 makes every step one of
    sharpness-aware minimization (SAM; Foret et al., 2021) with that radius, the third temperature.
    """

    stop: int | None = None
    rho: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        stop = self.stop
        allowed = f"an epoch from 1 to {self.epochs}"
        require(stop is None or 1 <= stop <= self.epochs, "dense.stop", stop, allowed)
        whole = stop is None or self.iterations is None
        require(whole, "dense.stop", stop, "left out where dense.iterations is given")
        require(self.rho >= 0, "dense.rho", self.rho, "0 or more")

    @property
    def stopped(self) -> int:
        """Number of epochs the dense net is trained for before it is pruned."""
        return self.stop if self.stop is not None else self.epochs


@dataclass(frozen=True)
class Retraining(Training):
    """Training of the pruned net: fresh optimizer, the mask held throughout."""


@dataclass(frozen=True)
class Pruning:
    """How the dense net is compressed: by pruning to ``density``, or to so many ``bits`` a weight.

    ``density`` is the kept fraction of the convolution weights, the largest ones. ``uniform``
    prunes every convolution alike (UniformMP), ``global`` sets one threshold over all of them
    (GlobalMP); Section 2.3. ``n:m`` keeps ``density * group`` of each ``group`` neighbours
    (:mod:`threeregime.pruning.magnitude`). ``quantization`` keeps every weight, and of each so
    many ``bits``
    (:mod:`threeregime.pruning.quantization`). Of a Transformer it is the linear layers.
    """

    method: str = "uniform"
    density: float = 0.05
    group: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.density <= 1, "pruning.density", self.density, "a fraction in (0, 1]")
        self._check_group()
        self._check_bits()

    def _check_group(self) -> None:
        group = self.group
        fits = group is None if self.method != "n:m" else group is not None and group >= 2
        require(fits, "pruning.group", group, "2 or more weights with n:m, else left out")
        if group is not None:
            kept = round(self.density * group)
            whole = kept >= 1 and math.isclose(kept, self.density * group)
            allowed = f"a multiple of 1/{group}, whole weights of each group of {group}"
            require(whole, "pruning.density", self.density, allowed)

    def _check_bits(self) -> None:
        quantized, bits = self.method == "quantization", self.bits
        fits = bits is not None and 1 <= bits <= 16 if quantized else bits is None
        require(fits, "pruning.bits", bits, "from 1 to 16 with quantization, else left out")
        all_kept = not quantized or self.density == 1
        require(all_kept, "pruning.density", self.density, "1 with quantization")


@dataclass(frozen=True)
class Metrics:
    """How errors, LMC and CKA are taken.

    ``error_epochs``: the test error is the mean over this many last epochs of retraining (scripts).
    ``points``: errors are taken at this many t along the line between two copies.
    ``samples``: CKA uses the first so many training images, or all when there are fewer (scripts).
    ``early``: LMC, CKA and the test error are also taken after these epochs of retraining.
    ``hessian``: the Hessian's trace and leading eigenvalue of every net are taken from so many
    random vectors and so many iterations (:mod:`threeregime.metrics.hessian`); 0: not at all.
    """

    error_epochs: int = 5
    points: int = 11
    samples: int = 6464
    early: tuple[int, ...] = ()
    hessian: int = 0

    def __post_init__(self) -> None:
        require(self.error_epochs >= 1, "metrics.error_epochs", self.error_epochs, "1 or more")
        require(self.points >= 3, "metrics.points", self.points, "3 or more")
        require(self.samples >= 2, "metrics.samples", self.samples, "2 or more")
        ordered = all(a < b for a, b in zip((0, *self.early), self.early, strict=False))
        require(ordered, "metrics.early", list(self.early), "increasing epochs from 1 on")
        require(self.hessian >= 0, "metrics.hessian", self.hessian, "0 or more vectors")


@dataclass(frozen=True)
class Protocol:
    """One cell's whole recipe, seeds apart."""

    data: Data = field(default_factory=Data)
    net: Net = field(default_factory=Net)
    dense: Dense = field(default_factory=Dense)
    pruning: Pruning = field(default_factory=Pruning)
    retraining: Retraining = field(default_factory=Retraining)
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        early, retraining = list(self.metrics.early), self.retraining
        counted = not early or retraining.iterations is None
        require(counted, "metrics.early", early, "left out where retraining.iterations is given")
        inside = not early or early[-1] <= retraining.epochs
        allowed = f"epochs of retraining, at most {retraining.epochs}"
        require(inside, "metrics.early", early, allowed)

    @classmethod
    def from_dict(cls, sections: Mapping[str, Mapping[str, Any]]) -> Protocol:
        """Build from nested tables as TOML gives them.

        Raises:
            ThreeRegimeError: an unknown section or field, a value of the wrong type or range.
        """
        made: Protocol = built(cls, sections)
        return made

    def replace(self, path: str, value: Any) -> Protocol:
        """Return a copy with one field changed, e.g. ``replace("pruning.density", 0.05)``."""
        return self.update({path: value})

    def update(self, fields: Mapping[str, Any]) -> Protocol:
        """Return a copy with fields changed together: some are only allowed together."""
        tables = self.to_dict()
        for path, value in fields.items():
            tables = merged(tables, path, value)
        return self.from_dict(tables)

    def get(self, path: str) -> Any:
        """Value of a dotted field, e.g. ``get("pruning.density")``."""
        section, _, name = path.partition(".")
        return getattr(getattr(self, section), name)

    def to_dict(self, defaults: bool = True) -> Tables:
        """Nested plain values; with ``defaults=False`` only what differs from the defaults."""
        tables = {f.name: table(getattr(self, f.name), defaults) for f in dataclasses.fields(self)}
        return {name: values for name, values in tables.items() if defaults or values}

    def hash(self, *sections: str, without: Collection[str] = ()) -> str:
        """Identity of the recipe, or of the named sections alone: 12 hexadecimal digits.

        Fields ``without`` which it is taken count as if they were at their defaults.
        """
        tables: Tables = {}
        for section, values in self.to_dict(defaults=False).items():
            left = {n: v for n, v in values.items() if f"{section}.{n}" not in without}
            if left and (not sections or section in sections):
                tables[section] = left
        text = json.dumps(tables, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def dense_hash(self) -> str:
        """Identity of the dense run, which all its early stops share."""
        return self.replace("dense.stop", None).hash("data", "net", "dense")
