"""Whatever is given, there is a plan or an error of one line, and neither takes long."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from threeregime._option_values import parse_cells, parse_duration, parse_fields, parse_seeds
from threeregime.book.notebooks import convert
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import list_experiments, load_experiment
from threeregime.protocol import Protocol
from threeregime.sweep import make_plan

SECONDS = 5.0
"""An answer takes less on a machine that does other work too."""
ROOT = Path("no such folder")

FIELDS = [
    f"{section}.{name}" for section, values in Protocol().to_dict().items() for name in values
]
numbers = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, 10**30, 10**500]),
    st.floats(),
    st.sampled_from([0.0, 1e-320, 1e308, 0.05, 0.5]),
)
scalars = st.one_of(numbers, st.booleans(), st.text(max_size=20), st.sampled_from(FIELDS))
values = st.recursive(scalars, lambda v: st.lists(v, max_size=4), max_leaves=6)
fields = st.sampled_from([*FIELDS, "net", "a.b.c", ".", "net.", ".width", "x.y", ""])


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(str(k))} = {toml(v)}' for k, v in value.items())}}}"
    if isinstance(value, int) and abs(value) >= 10**500:
        return "9" * 5000
    if isinstance(value, str):
        escaped = "".join(c if c.isalnum() else f"\\U{ord(c):08x}" for c in value)
        return f'"{escaped}"'
    return repr(value)


def answer(call: Callable[[], object]) -> str:
    """Return the error of a call, which has one line; empty without one."""
    start = time.monotonic()
    try:
        call()
        message = ""
    except ThreeRegimeError as error:
        message = str(error)
        assert message
        assert len(message.splitlines()) == 1
        assert len(message) < 1000
    assert time.monotonic() - start < SECONDS
    return message


many = settings(max_examples=150, suppress_health_check=list(HealthCheck), derandomize=True)


@many
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "title": values,
            "source": values,
            "error": values,
            "temperature": st.one_of(st.sampled_from(["epochs", "rho", "batch_size"]), values),
            "load": st.one_of(st.sampled_from(["density", "bits", "width", "depth"]), values),
            "set": st.one_of(st.dictionaries(fields, values, max_size=3), values),
            "other": values,
        },
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.one_of(st.lists(numbers, max_size=4), values),
            "density": st.one_of(st.lists(numbers, max_size=4), values),
            "dense_seeds": st.one_of(st.lists(st.integers(), max_size=4), values),
            "retrain_seeds": st.one_of(st.lists(st.integers(), max_size=4), values),
            "set": st.one_of(st.dictionaries(fields, values, max_size=3), values),
            "variants": st.one_of(
                st.dictionaries(
                    st.text(max_size=5), st.dictionaries(fields, values, max_size=2), max_size=3
                ),
                values,
            ),
            "other": values,
        },
    ),
)
def test_files(head: dict[str, Any], grid: dict[str, Any]) -> None:
    whole = {"title": "t", "source": "s", "temperature": "epochs", "load": "density", **head}
    scale = {
        "epochs": [2, 4],
        "density": [0.05, 0.5],
        "dense_seeds": [0],
        "retrain_seeds": [0, 1],
        **grid,
    }
    lines = [f"{key} = {toml(value)}" for key, value in whole.items()]
    lines += ["[smoke]", *(f"{key} = {toml(value)}" for key, value in scale.items())]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        answer(lambda: make_plan(load_experiment(str(path), "smoke"), ROOT))


@many
@given(st.binary(max_size=200))
@example(b"\x00")
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
@example(b"a = " + b"[" * 50_000)
@example(b"a = " + b"{a=" * 50_000)
def test_files_of_any_bytes(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mine.toml"
        path.write_bytes(content)
        assert answer(lambda: load_experiment(str(path), "smoke"))


@many
@given(
    st.sampled_from(list_experiments()),
    st.lists(st.tuples(fields, st.one_of(values.map(toml), st.text(max_size=20))), max_size=3),
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from(["epochs", "density", "self", "rho"]), numbers.map(toml))
        ).map(lambda pairs: ",".join("=".join(pair) for pair in pairs)),
        st.text(max_size=20),
    ),
    st.one_of(
        st.just(""),
        st.text(max_size=8),
        st.tuples(st.integers(), st.integers()).map("{0[0]}x{0[1]}".format),
    ),
)
def test_options(name: str, given_fields: list[tuple[str, str]], only: str, seeds: str) -> None:
    def plan() -> None:
        experiment = load_experiment(name, "smoke")
        experiment = experiment.with_fields(parse_fields([f"{f}={v}" for f, v in given_fields]))
        experiment = experiment.with_values(**parse_cells(only))
        if seeds:
            experiment = experiment.with_seeds(*parse_seeds(seeds))
        make_plan(experiment, ROOT)

    answer(plan)


@many
@given(
    st.sampled_from(["int", "float", "bool", "str", "list[int]", "list[float]", "list[str]"]),
    st.one_of(values.map(toml), st.text(max_size=30)),
)
@example("list[float]", "[" * 100_000)
@example("int", "9" * 100_000)
def test_parameters_and_durations(annotation: str, text: str) -> None:
    answer(lambda: convert("x", annotation, text))
    answer(lambda: parse_duration(text))
    answer(lambda: parse_seeds(text))
