"""Prose types no result: numbers come into it through glue and tables, or are constants."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from threeregime._paths import ROOT
from threeregime.analysis.thresholds import LMC_THRESHOLD
from threeregime.calibration.known_nets import KNOWN
from threeregime.experiments import catalogue

# What a result looks like: a decimal fraction, or a number with the unit of a result.
UNITS = "%|points?|percent|BLEU|times|cells|seconds|minutes|hours|ms|MB|GB"
RESULT = re.compile(rf"(?<![\w.])[-−+]?\d+(?:\.\d+|(?:[.,]\d+)?\s*(?:{UNITS})(?!\w))")

# What looks like one and is a name, or what an interval is called.
NAMES = re.compile(
    r"(Section|Appendix|Algorithms?( 2 and)?|Figure|Python)( or)? (\w\.)?\d+(\.\d+)?( or 3\.12)?"
    r"|95 % (confidence )?intervals?|interval of 95 %"
)

LEFT_OUT = (
    r"^(```+|~~~+).*?^\1",  # code and directives
    r"\{[a-z:]+\}`[^`]*`",  # roles, glue among them
    r"`[^`]*`",
    r"\]\([^)]*\)",  # addresses of links
    r"\$\$.*?\$\$|\$[^$\n]*\$",
)


def constants() -> dict[str, set[str]]:
    """Constants that a page may name, from where they are constants."""
    adam = catalogue.load_experiment("figure_13", "paper").variants["Adam, SGD"]["dense.lr"]
    five = f"{100 * catalogue.load_experiment('figure_15', 'paper').protocol.pruning.density:g} %"
    threshold = f"{LMC_THRESHOLD:g}"
    return {
        "README.md": {"0.3", "6 GB"},  # a density to try; what the environment takes on disk
        "advice.ipynb": {f"{100 * KNOWN:g} %"},
        "advise.md": {threshold},
        "protocol.md": {"80 %"},  # of the paper's grid
        "explorer.ipynb": {"95 %"},  # of the replicates, where a regime is sure
        "figure_03.ipynb": {threshold},
        "figure_08.ipynb": {"1.02"},  # million weights, as tests of the nets count them
        "figure_13.ipynb": {f"{adam:g}"},
        "figure_15.ipynb": {threshold, five},
        "landscapes.ipynb": {threshold},
        "structured.ipynb": {"50 %"},  # 2 of 4
    }


def paragraphs(text: str) -> list[str]:
    """Paragraphs of Markdown without what is no prose."""
    for pattern in LEFT_OUT:
        text = re.sub(pattern, "", text, flags=re.S | re.M)
    text = " ".join(text.split(" ")).replace("−", "-")
    return [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]


def typed(text: str) -> list[str]:
    """Numbers that look like results."""
    return [
        found for part in paragraphs(text) for found in RESULT.findall(NAMES.sub("", part)) if found
    ]


def prose(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text()
    cells = json.loads(path.read_text())["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


PAGES = [
    ROOT / "README.md",
    *(ROOT / "book").glob("*.md"),
    *(ROOT / "book" / "api").glob("*.md"),
    *(ROOT / "notebooks").glob("*.ipynb"),
]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.name)
def test_no_result_is_typed(path: Path) -> None:
    """A number in prose is glued, or one of the page's constants."""
    allowed = constants().get(path.name, set())
    assert set(typed(prose(path))) <= allowed


def test_constants_are_those_in_use() -> None:
    """None is allowed that no page names."""
    for name, allowed in constants().items():
        path = next(path for path in PAGES if path.name == name)
        assert set(typed(prose(path))) == allowed


@pytest.mark.parametrize(
    "text", ["It gains 2.1 points.", "LMC is −0.31 here", "in 23 of 144 cells", "about 12 % better"]
)
def test_results_are_seen(text: str) -> None:
    """Results of all kinds are found in a sentence."""
    assert typed(text)


@pytest.mark.parametrize(
    "text",
    [
        "See Section 3.2 and Figure 2.",
        "its 95 % interval",
        "gains {glue:text}`fig02_gain:.1f` points",
        "```sh\nthreeregime run -p lmc_threshold=-0.1\n```",
        "a fit of $y = 0.3x$",
    ],
)
def test_names_glue_and_code_are_none(text: str) -> None:
    """What is no typed result is left alone."""
    assert not typed(text)
