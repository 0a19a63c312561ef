"""What a registration is made of: rules, studies, claims and their primary parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from threeregime._paths import REGISTERED
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment, load_experiment


@dataclass(frozen=True)
class Rules:
    """Constants of all verdicts; see ``registered.toml``.

    Attributes:
        looks: numbers of dense seeds at which the data are judged.
        level: two-sided level of each look.
        margin: of "no worse" and "no difference", in log error.
        futile: half width of the interval of effects that are not looked at again.
        no_net: share of chance above which a cell's training error excludes it.
        window: share of the whole dense run in which a hotter temperature is chosen.
    """

    looks: tuple[int, ...]
    level: float
    margin: float
    futile: float
    no_net: float
    window: tuple[float, float]

    def __post_init__(self) -> None:
        if not 0 < self.level < 0.05 or list(self.looks) != sorted(set(self.looks)):
            raise ThreeRegimeError(f"{REGISTERED.name}: looks must increase, level be below 0.05")


@dataclass(frozen=True)
class RegisteredStudy:
    """An experiment with the seeds that it is decided on.

    Attributes:
        name: of the study.
        scale: of the experiment.
        first_dense_seed: the first of its dense seeds; each study has its own.
        copies: retrained copies of each dense net.
        experiment_name: of the experiment; by default the study's name.
        data: data set, if it is not the scale's.
        temperatures: of the grid, if the experiment lists others at present; empty: its own.
    """

    name: str
    scale: str
    first_dense_seed: int
    copies: int
    experiment_name: str
    data: str = ""
    temperatures: tuple[float, ...] = ()

    def experiment(self, dense_seeds: int) -> Experiment:
        """Return the experiment with the first dense seeds, for a look at so many."""
        experiment = load_experiment(self.experiment_name, self.scale)
        if self.data:
            experiment = experiment.with_fields({"data.name": self.data})
        if self.temperatures:
            experiment = experiment.with_values(**{experiment.temperature: self.temperatures})
        first = replace(experiment, dense_seeds=(self.first_dense_seed,))
        return first.with_seeds(dense_seeds, self.copies)


@dataclass(frozen=True)
class Headline:
    """The effect that is combined over studies.

    Attributes:
        effect: an entry of :data:`EFFECTS`.
        studies: names of the studies.
    """

    effect: str
    studies: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        name: short key.
        where: section and figure of the paper.
        statement: the claim, in our words.
    """

    name: str
    where: str
    statement: str


@dataclass(frozen=True)
class Part:
    """A primary part of a claim: an effect that is positive if the claim is true.

    Attributes:
        claim: key of the claim.
        study: name of the study.
        name: short key among the claim's parts.
        effect: an entry of :data:`EFFECTS`.
        smaller_than_margin: whether the effect judged is the margin minus this one.
        options: what else defines the effect, e.g. the regimes that are compared.
    """

    claim: str
    study: str
    name: str
    effect: str
    smaller_than_margin: bool
    options: tuple[tuple[str, Any], ...]
