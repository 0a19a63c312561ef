"""Effects that the registered parts estimate: by dense seed in numbers, and in words."""

from __future__ import annotations

from typing import Any

from threeregime.analysis import REGIMES, Array
from threeregime.claims.effects import EFFECTS
from threeregime.claims.evidence import Evidence
from threeregime.claims.parts import Part

NAMES = {
    "log_error": "log error",
    "dissimilarity": "log(1 - CKA)",
    "lmc": "LMC",
    "hessian_trace": "the Hessian's trace",
    "hessian_top": "its leading eigenvalue",
}


def part_effects(part: Part, evidence: Evidence) -> Array:
    """Return the effects of a registered part by dense seed [D]; NaN where there is none.

    The options "variant" and "against" name variants of the experiment; without them the effect is
    of the first one.
    """
    options = dict(part.options)
    if "against" in options:
        options["against"] = evidence.variants[options["against"]]
    own = evidence.variants[options.pop("variant")] if "variant" in options else evidence
    effects = EFFECTS[part.effect].function(own, **options)
    return evidence.rules.margin - effects if part.smaller_than_margin else effects


def part_words(part: Part) -> str:
    """Return the effect of a registered part in words."""
    template = EFFECTS[part.effect].words
    options = {name: _option_words(name, value) for name, value in part.options}
    words = template.format(**options)
    if "variant" in options and "{variant}" not in template:
        words += f" {options['variant']}"
    if options.get("loads") == "low":
        words += ", heavy loads"
    return f"the margin minus {words}" if part.smaller_than_margin else words


def _option_words(name: str, value: Any) -> str:
    """Return the value of an option as it stands in a sentence."""
    values = value if isinstance(value, tuple) else (value,)
    if name == "where":
        return "any regime" if set(values) == set(REGIMES) else f"Regime {' or '.join(values)}"
    return " or ".join(
        NAMES.get(one, f"({one})" if ", " in str(one) else str(one)) for one in values
    )
