"""Registration of what decides each claim, before its study is computed: ``registered.toml``."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from typing import Any

from threeregime._paths import REGISTERED
from threeregime.claims.effects import EFFECTS
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
    """

    name: str
    scale: str
    first_dense_seed: int
    copies: int
    experiment_name: str
    data: str = ""

    def experiment(self, dense_seeds: int) -> Experiment:
        """Return the experiment with the first dense seeds, for a look at so many."""
        experiment = load_experiment(self.experiment_name, self.scale)
        if self.data:
            experiment = experiment.with_fields({"data.name": self.data})
        return experiment.with_seeds(dense_seeds, self.copies)


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


@dataclass(frozen=True)
class Registration:
    """The content of ``registered.toml``.

    Attributes:
        rules: constants of all verdicts.
        headline: the effect that is combined over studies.
        studies: by name, in the order in which they are computed.
        claims: by name, in the order of the paper.
        parts: primary parts of the claims.
    """

    rules: Rules
    headline: Headline
    studies: dict[str, RegisteredStudy]
    claims: dict[str, Claim]
    parts: tuple[Part, ...]

    def parts_of(self, claim: str) -> list[Part]:
        """Return the primary parts of a claim."""
        return [part for part in self.parts if part.claim == claim]


@functools.cache
def load_registration() -> Registration:
    """Return what is registered.

    Raises:
        ThreeRegimeError: an entry is missing, unknown or occurs twice.
    """
    return parse_registration(REGISTERED.read_text())


def parse_registration(text: str) -> Registration:
    """Return what a text in the form of ``registered.toml`` registers."""
    table = tomllib.loads(text)
    try:
        rules = _without_lists(table["rules"])
        studies = {n: _study(n, study) for n, study in table["studies"].items()}
        parts = tuple(_part(part) for entry in table["parts"] for part in _by_study(entry))
        headline = Headline(**_without_lists(table["headline"]))
        claims = {n: Claim(n, **claim) for n, claim in table["claims"].items()}
        registration = Registration(Rules(**rules), headline, studies, claims, parts)
    except (KeyError, TypeError) as error:
        raise ThreeRegimeError(f"{REGISTERED.name}: {error}") from error
    seen = [(part.claim, part.study, part.name) for part in parts]
    for part in parts:
        _check(part.effect in EFFECTS, f"effect = {part.effect!r} is none of {', '.join(EFFECTS)}")
        _check(part.study in studies, f"study = {part.study!r} is not among the studies")
        _check(part.claim in claims, f"claim = {part.claim!r} is not among the claims")
    for name in headline.studies:
        _check(name in studies, f"study = {name!r} is not among the studies")
    _check(len(set(seen)) == len(seen), "a part occurs twice")
    return registration


def _study(name: str, entry: dict[str, Any]) -> RegisteredStudy:
    return RegisteredStudy(name, **{"experiment_name": name} | entry)


def _by_study(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the parts of an entry: of several studies, each decides the claim of its name."""
    common = dict(entry)
    names = common.pop("studies", ())
    return [common | {"study": name, "claim": name} for name in names] or [common]


def _part(entry: dict[str, Any]) -> Part:
    names = ("claim", "study", "name", "effect")
    values = {name: entry.pop(name) for name in names}
    smaller = entry.pop("smaller_than_margin", False)
    options = tuple(sorted(_without_lists(entry).items()))
    return Part(**values, smaller_than_margin=smaller, options=options)


def _without_lists(table: dict[str, Any]) -> dict[str, Any]:
    """Return a table with tuples in place of lists, so that a frozen object may hold its values."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}


def _check(ok: bool, problem: str) -> None:
    if not ok:
        raise ThreeRegimeError(f"{REGISTERED.name}: {problem}")
