"""Registration of what decides each claim, before its study is computed: ``registered.toml``."""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from typing import Any

from threeregime._paths import REGISTERED
from threeregime.claims.effects import EFFECTS
from threeregime.claims.parts import Claim, Headline, Part, RegisteredStudy, Rules
from threeregime.errors import ThreeRegimeError


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
    return RegisteredStudy(name, **{"experiment_name": name} | _without_lists(entry))


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
