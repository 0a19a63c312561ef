"""Files of experiments: what is wrong with one is said in one line, before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from threeregime.errors import ThreeRegimeError
from threeregime.experiments import Experiment, catalogue, load_experiment
from threeregime.sweep import make_plan

VALID = {
    "title": '"t"',
    "source": '"s"',
    "temperature": '"epochs"',
    "load": '"density"',
    "[smoke]": "",
    "epochs": "[2, 4]",
    "density": "[0.05, 0.5]",
    "dense_seeds": "[0]",
    "retrain_seeds": "[0, 1]",
}


def write(path: Path, changed: dict[str, str] | None = None, head: str = "") -> str:
    """Write an experiment with some entries changed, and lines before them; return its path."""
    entries = {**VALID, **(changed or {})}
    lines = [f"{key} = {value}" if value else key for key, value in entries.items()]
    path.write_text("\n".join([head, *lines]), encoding="utf-8")
    return str(path)


def refusal(path: str, tmp_path: Path) -> str:
    """Return the error that a file ends in when its sweep is planned."""
    with pytest.raises(ThreeRegimeError) as caught:
        make_plan(load_experiment(path, "smoke"), tmp_path / "results")
    return str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"epochs": "[2, 2]"}, "epochs = [2, 2] is not allowed: one or more values, each once"),
        ({"epochs": "[2, 4, 2]"}, "each once"),
        ({"epochs": "[2, 2.0]"}, "each once"),
        ({"epochs": "[true, 4]"}, "epochs = True is not allowed: a whole number"),
        ({"epochs": '["2", "4"]'}, "epochs = '2' is not allowed: a whole number"),
        ({"epochs": '"24"'}, "epochs in [smoke] must be a list of 1 or more"),
        ({"epochs": "[]"}, "epochs in [smoke] must be a list of 1 or more"),
        ({"epochs": f"[{10**400}]"}, "is not allowed: a whole number"),
        ({"density": "[1e309]"}, "density = inf is not allowed: a number"),
        ({"density": "[nan]"}, "density = nan is not allowed: a number"),
        ({"density": "[[0.05]]"}, "density = [0.05] is not allowed: a number"),
        ({"density": "[2020-01-01]"}, "is not allowed: a number"),
        ({"density": "[0.0, 0.5]"}, "pruning.density = 0.0 is not allowed"),
        ({"retrain_seeds": "[0, 0]"}, "retrain_seeds = [0, 0] is not allowed"),
        ({"dense_seeds": "[0, 0]"}, "dense_seeds = [0, 0] is not allowed"),
        ({"dense_seeds": f"[{2**63}]"}, "whole numbers from 0 to below 2**63"),
        ({"dense_seeds": "[-1]"}, "dense_seeds = -1 is not allowed"),
        ({"dense_seeds": "[true]"}, "dense_seeds in [smoke] must be whole numbers"),
        ({"dense_seeds": f"[{'9' * 5000}]"}, "cannot be read"),
        ({"foo": "1"}, "'foo' is not known in [smoke]: one of epochs, density, dense_seeds"),
        ({"set": "5"}, "set in [smoke] must be a table"),
        ({"set": '"abc"'}, "set in [smoke] must be a table"),
        ({"set": '{"pruning.density" = 0.5}'}, "pruning.density is an axis of"),
        ({"set": '{"width" = 1.0}'}, "'width' is not of the form SECTION.FIELD"),
        ({"set": '{"a.b.c" = 1}'}, "'a.b.c' is not of the form SECTION.FIELD"),
        ({"set": "{net = {width = 1.0}}"}, "'net' is not of the form SECTION.FIELD"),
        ({"set": '{"net.width" = 1e12}'}, "net.width = 1000000000000.0 is not allowed"),
        ({"set": '{"net.depth" = 6000000000000002}'}, "at most 1300 layers"),
        ({"set": f'{{"dense.epochs" = {10**400}}}'}, "dense.epochs"),
        ({"set": f'{{"dense.lr" = {10**400}}}'}, "dense.lr"),
        ({"variants": "{}"}, "variants in [smoke] must be a table with an entry for each"),
        ({"variants": '"abc"'}, "variants in [smoke] must be a table"),
        ({"variants": "{a = 5}"}, "variants.a in [smoke] must be a table of fields"),
        ({"variants": '{a = {"lr" = 0.1}}'}, "'lr' is not of the form SECTION.FIELD"),
        ({"variants": '{a = {"net.foo" = 1}}'}, "field net.foo = 1 is not allowed"),
        ({"variants": '{a = {"pruning.density" = 0.1}}'}, "pruning.density is an axis of"),
        ({"variants": '{a = {"dense.lr" = 0.1}, b = {"dense.lr" = 0.1}}'}, "'a' and 'b' of"),
        ({"variants": '{"a\\nb" = {}}'}, "must have a name of one line"),
        ({"load": '"epochs"'}, "load must be another axis than temperature"),
        ({"temperature": "5"}, "temperature must be one of epochs"),
        ({"temperature": '["epochs"]'}, "temperature must be one of epochs"),
        ({"title": "5"}, "title = 5 is not allowed: a text of one line"),
        ({"title": '"a\\nb"'}, "title = 'a\\nb' is not allowed: a text of one line"),
        ({"source": "[1]"}, "source = [1] is not allowed"),
        ({"[smoke]": "[[smoke]]"}, "smoke must be a table, [smoke]"),
        ({"[smoke]": "[gigantic]"}, "'gigantic' is not known in the file"),
    ],
)
def test_a_wrong_entry_is_named(changed: dict[str, str], words: str, tmp_path: Path) -> None:
    if "[smoke]" in changed:
        changed = {changed["[smoke]"] if key == "[smoke]" else key: "" for key in changed}
        entries = {k: v for k, v in VALID.items() if k != "[smoke]"}
        tail = [f"{k} = {v}" for k, v in list(entries.items())[4:]]
        head = [f"{k} = {v}" for k, v in list(entries.items())[:4]]
        path = tmp_path / "mine.toml"
        path.write_text("\n".join([*head, *changed, *tail]))
        message = refusal(str(path), tmp_path)
    else:
        message = refusal(write(tmp_path / "mine.toml", changed), tmp_path)
    assert words in message
    assert "\n" not in message
    assert len(message) < len(str(tmp_path)) + 300


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("error = 5", "error = 5 is not allowed: a text of one line"),
        ("foo = 1", "'foo' is not known in the file: one of temperature, load, title"),
        ("set = 5", "set in the file must be a table"),
        (f"a = {'[' * 5000}", "nested too deeply"),
        ("}{", "cannot be read: Invalid statement"),
    ],
)
def test_a_wrong_line_is_named(head: str, words: str, tmp_path: Path) -> None:
    assert words in refusal(write(tmp_path / "mine.toml", head=head), tmp_path)


def test_a_file_may_begin_with_the_mark_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    write(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_experiment(str(path), "smoke").temperatures == (2, 4)


def test_a_file_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(Path(write(path)).read_text().encode("utf-16"))
    assert "cannot be read" in refusal(str(path), tmp_path)


@pytest.mark.parametrize("name", [".toml", "..toml", "a\nb.toml"])
def test_a_name_that_no_folder_may_have_is_refused(name: str, tmp_path: Path) -> None:
    assert "the name of the file" in refusal(write(tmp_path / name), tmp_path)


def test_a_pipe_and_a_folder_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    for name in ("pipe", "folder", "zero"):
        assert "it is not a file" in refusal(str(tmp_path / f"{name}.toml"), tmp_path)


def test_a_file_without_an_end_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "long.toml"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    assert "longer than any experiment" in refusal(str(path), tmp_path)


@pytest.fixture
def experiment() -> Experiment:
    return catalogue.load_experiment("figure_02", "smoke")


def test_the_word_self_is_no_axis(experiment: Experiment) -> None:
    with pytest.raises(ThreeRegimeError, match="'self' is not an axis of figure_02"):
        experiment.with_values(self=[1])


def test_a_value_asked_for_twice_is_computed_once(experiment: Experiment) -> None:
    assert experiment.with_values(epochs=[2, 2.0]).temperatures == (2,)


@pytest.mark.parametrize("seeds", [(999_999_999, 2), (1, 99_999), (2, 999_999_999)])
def test_more_nets_than_a_plan_can_list_are_refused(
    seeds: tuple[int, int], experiment: Experiment
) -> None:
    with pytest.raises(ThreeRegimeError, match="at most 100000 can be planned"):
        experiment.with_seeds(*seeds)


def test_set_may_not_make_variants_the_same() -> None:
    experiment = catalogue.load_experiment("figure_05", "smoke")
    with pytest.raises(ThreeRegimeError, match="the variants 'SGD' and 'SAM' of figure_05"):
        experiment.with_fields({"dense.rho": 0.5})
