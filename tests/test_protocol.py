"""The protocol: what it refuses, what identifies it, and the presets that ship."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from threeregime.errors import ThreeRegimeError
from threeregime.experiments import catalogue
from threeregime.experiments.axes import AXES
from threeregime.protocol import Data, Dense, Metrics, Net, Protocol, Pruning, Retraining, Training

PRESETS = [
    (name, scale) for name in catalogue.list_experiments() for scale in catalogue.list_scales(name)
]


def refusal(sections: dict[str, Any]) -> str:
    with pytest.raises(ThreeRegimeError) as caught:
        Protocol.from_dict(sections)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Each line names the field, the value that was given and what is allowed.
@pytest.mark.parametrize(
    ("section", "field", "value", "allowed"),
    [
        ("data", "nmae", "digits", "name, crop, flip"),
        ("data", "crop", -1, "0 or more"),
        ("data", "crop", 1.5, "a whole number"),
        ("data", "flip", "yes", "true or false"),
        ("data", "flip", 1, "true or false"),
        ("data", "name", 3, "a text"),
        ("data", "images", 0, "1 or more"),
        ("data", "images", 1e4, "a whole number"),
        ("data", "size", 0, "1 or more"),
        ("net", "depth", True, "a whole number"),
        ("net", "width", 0, "above 0"),
        ("net", "width", "wide", "a finite number"),
        ("net", "width", float("inf"), "a finite number"),
        ("net", "width", float("nan"), "a finite number"),
        ("dense", "lr", 0.0, "above 0"),
        ("dense", "lr", True, "a finite number"),
        ("dense", "momentum", 1.0, "below 1"),
        ("dense", "weight_decay", -1e-4, "0 or more"),
        ("dense", "batch_size", 0, "1 or more"),
        ("dense", "epochs", 0, "1 or more"),
        ("dense", "epochs", 80.0, "a whole number"),
        ("dense", "milestones", [80, 160], "before the last one, 160"),
        ("dense", "milestones", [80, 999], "before the last one, 160"),
        ("dense", "milestones", [0, 80], "before the last one, 160"),
        ("dense", "milestones", [120, 80], "increasing"),
        ("dense", "milestones", [80, 80], "increasing"),
        ("dense", "milestones", [80.0], "a list of whole numbers"),
        ("dense", "milestones", 80, "a list of whole numbers"),
        ("dense", "decay", 0.0, "(0, 1]"),
        ("dense", "decay", 1.1, "(0, 1]"),
        ("dense", "stop", 0, "from 1 to 160"),
        ("dense", "stop", 161, "from 1 to 160"),
        ("dense", "stop", "80", "a whole number"),
        ("retraining", "milestones", [80, 160], "before the last one, 160"),
        ("retraining", "stop", 80, "lr, momentum, weight_decay"),
        ("pruning", "density", 0.0, "a fraction in (0, 1]"),
        ("pruning", "density", -0.05, "a fraction in (0, 1]"),
        ("pruning", "density", 1.01, "a fraction in (0, 1]"),
        ("pruning", "density", 5, "a fraction in (0, 1]"),
        ("pruning", "density", "5 %", "a finite number"),
        ("pruning", "group", 4, "2 or more weights with n:m, else left out"),
        ("pruning", "group", 4.0, "a whole number"),
        ("pruning", "bits", 4, "from 1 to 16 with quantization, else left out"),
        ("pruning", "bits", 4.0, "a whole number"),
        ("metrics", "error_epochs", 0, "1 or more"),
        ("metrics", "points", 2, "3 or more"),
        ("metrics", "samples", 1, "2 or more"),
        ("metrics", "early", [0, 2], "increasing epochs from 1 on"),
        ("metrics", "early", [2, 2], "increasing epochs from 1 on"),
        ("metrics", "early", [2, 161], "at most 160"),
        ("metrics", "hessian", -1, "0 or more vectors"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(
    section: str, field: str, value: Any, allowed: str
) -> None:
    message = refusal({section: {field: value}})
    assert f"{section}.{field} = " in message
    shown = float(value) if isinstance(value, int) and "fraction" in allowed else value
    assert repr(shown) in message or str(value) in message
    assert allowed in message


def test_early_epochs_are_counted_in_epochs() -> None:
    sections = {"retraining": {"iterations": 1000}, "metrics": {"early": [2]}}
    assert "left out where retraining.iterations is given" in refusal(sections)


def test_an_unknown_section_is_refused() -> None:
    assert "'prunning'" in refusal({"prunning": {"density": 0.1}})


def test_the_ends_of_what_is_allowed_are_allowed() -> None:
    made = Protocol.from_dict(
        {
            "data": {"name": "folder:pictures", "crop": 0},
            "net": {"depth": 8, "width": 3},
            "dense": {"milestones": [1, 159], "momentum": 0, "decay": 1, "stop": 160},
            "retraining": {"epochs": 1, "milestones": []},
            "pruning": {"density": 1},
            "metrics": {"points": 3, "samples": 2, "error_epochs": 1},
        }
    )
    assert made.pruning == Pruning(density=1.0)
    assert made.dense.milestones == (1, 159)
    assert made.dense.stopped == 160
    # a whole number where a fraction is meant becomes one, so that both have one identity
    assert type(made.net.width) is float
    assert made.hash() == made.replace("net.width", 3.0).hash()


def test_the_defaults_are_the_papers_constants() -> None:
    paper = catalogue.load_scale("paper")
    assert paper == Protocol()
    assert paper.data == Data("cifar10", crop=4, flip=True)
    assert paper.net == Net("preresnet", depth=20, width=1.0)
    constants = {
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 64,
        "epochs": 160,
        "milestones": (80, 120),
        "decay": 0.1,
    }
    assert paper.dense == Dense(**constants)  # type: ignore[arg-type]
    assert paper.retraining == Retraining(**constants)  # type: ignore[arg-type]
    assert paper.metrics == Metrics(error_epochs=5, points=11, samples=6464)


def test_the_rate_drops_at_the_milestones() -> None:
    training = Training(lr=0.1, epochs=10, milestones=(4, 8), decay=0.1)
    rates = [training.rate(5 * epoch, 5) for epoch in range(10)]
    assert rates == pytest.approx([0.1] * 4 + [0.01] * 4 + [0.001] * 2, rel=1e-12)


def test_replace_and_get() -> None:
    first = Protocol()
    changed = first.replace("pruning.density", 0.2).replace("dense.stop", 40)
    assert changed.get("pruning.density") == 0.2
    assert changed.get("dense.stop") == changed.dense.stopped == 40
    assert first == Protocol()
    assert first.dense.stopped == 160
    assert changed.replace("pruning.density", 0.05).replace("dense.stop", None) == first
    for path, value in (("pruning.density", 2), ("net.deepth", 20), ("nets.depth", 20)):
        with pytest.raises(ThreeRegimeError, match=r"is not allowed"):
            first.replace(path, value)


def test_a_protocol_survives_the_way_through_plain_values() -> None:
    for name, scale in PRESETS:
        for protocol in {unit.protocol for unit in catalogue.load_experiment(name, scale).units()}:
            assert Protocol.from_dict(protocol.to_dict()) == protocol
            assert Protocol.from_dict(protocol.to_dict(defaults=False)) == protocol


def test_defaults_stay_out_of_the_hash() -> None:
    assert Protocol().to_dict(defaults=False) == {}
    explicit = Protocol.from_dict(Protocol().to_dict())
    assert explicit.hash() == Protocol().hash()
    # what was computed under these recipes must be found again by later versions
    assert Protocol().hash() == "44136fa355b3"
    assert Protocol().replace("pruning.density", 0.2).hash() == "d8d775c090fe"


def test_the_hash_tells_every_field_apart() -> None:
    others: dict[str, Any] = {
        "data.name": "digits",
        "data.crop": 1,
        "data.flip": False,
        "data.images": 10_000,
        "data.size": 16,
        "net.depth": 32,
        "net.width": 0.25,
        "pruning.method": "global",
        "pruning.density": 0.1,
        "metrics.error_epochs": 1,
        "metrics.points": 21,
        "metrics.samples": 6400,
        "metrics.early": [1, 2],
        "metrics.hessian": 20,
    }
    training = {
        "lr": 0.2,
        "momentum": 0.8,
        "weight_decay": 1e-3,
        "batch_size": 128,
        "epochs": 161,
        "milestones": [80],
        "decay": 0.2,
        "optimizer": "adam",
        "iterations": 1000,
        "smoothing": 0.1,
    }
    for section, (field, value) in itertools.product(("dense", "retraining"), training.items()):
        others[f"{section}.{field}"] = value
    others |= {"dense.stop": 80, "dense.rho": 0.1}
    # allowed only together with another: a schedule of its own and its warm-up
    pairs = {f"{s}.{f}" for s in ("dense", "retraining") for f in ("schedule", "warmup")}
    every = {f"{s}.{f}" for s, table in Protocol().to_dict().items() for f in table}
    pairs |= {"pruning.group", "pruning.bits"}
    assert every == {*others, *pairs, "net.name"}
    # the default net has no depth in common with another
    nets = [Protocol().update({"net.name": n, "net.depth": 19}) for n in ("densenet", "vgg")]
    warm = [
        Protocol().update({f"{section}.schedule": "inverse_sqrt", f"{section}.warmup": steps})
        for section in ("dense", "retraining")
        for steps in (10, 20)
    ]
    groups = [
        Protocol().update({"pruning.method": "n:m", "pruning.density": 0.5, "pruning.group": group})
        for group in (4, 16)
    ]
    whole = {"pruning.method": "quantization", "pruning.density": 1.0}
    bits = [Protocol().update({**whole, "pruning.bits": number}) for number in (2, 3)]
    protocols = [
        Protocol(),
        *nets,
        *warm,
        *groups,
        *bits,
        *(Protocol().replace(*item) for item in others.items()),
    ]
    assert len({protocol.hash() for protocol in protocols}) == len(protocols)
    for path, value in others.items():
        section = path.partition(".")[0]
        changed = Protocol().replace(path, value)
        assert changed.hash(section) != Protocol().hash(section)
        rest = [part for part in Protocol().to_dict() if part != section]
        assert changed.hash(*rest) == Protocol().hash(*rest)


def test_the_hash_is_the_same_in_another_process() -> None:
    code = (
        "from threeregime.experiments import load_scale; protocol = load_scale('clutter'); "
        "print(protocol.hash(), protocol.dense_hash)"
    )
    got = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    protocol = catalogue.load_scale("clutter")
    assert got.stdout.split() == [protocol.hash(), protocol.dense_hash]


def test_all_stops_of_a_dense_run_share_its_identity() -> None:
    protocol = catalogue.load_scale("clutter")
    stops = [protocol.replace("dense.stop", stop) for stop in (None, 8, 96)]
    assert len({p.dense_hash for p in stops}) == 1
    assert len({p.hash() for p in stops}) == 3
    assert protocol.replace("pruning.density", 0.3).dense_hash == protocol.dense_hash
    assert protocol.replace("dense.lr", 0.2).dense_hash != protocol.dense_hash


def test_a_hash_without_fields_is_that_of_their_defaults() -> None:
    scale = catalogue.load_scale("clutter")
    wide = scale.update({"net.width": 2.0, "dense.stop": 8})
    assert wide.hash(without=["net.width", "dense.stop"]) == scale.replace("net.width", 1).hash()
    assert wide.hash("net", without=["net.width"]) == Protocol().hash("net")
    assert wide.hash("net", without=["dense.stop"]) == wide.hash("net")


@pytest.mark.parametrize(("name", "scale"), PRESETS)
def test_every_preset_loads_and_covers_its_grid(name: str, scale: str) -> None:
    experiment = catalogue.load_experiment(name, scale)
    units = experiment.units()
    grid = itertools.product(
        experiment.variants, experiment.temperatures, experiment.loads, experiment.dense_seeds
    )
    found = [(unit.variant, unit.temperature, unit.load, unit.dense_seed) for unit in units]
    assert sorted(found) == sorted(grid)
    assert [unit.dense_seed for unit in units] == sorted(unit.dense_seed for unit in units)
    assert len(experiment.retrain_seeds) >= 2
    for unit in units:
        axes = {experiment.temperature: unit.temperature, experiment.load: unit.load}
        for axis, value in axes.items():
            assert unit.protocol.get(AXES[axis].field) == value
    # the identity of a diagram is that of all its cells
    for variant in experiment.variants:
        own = [unit for unit in units if unit.variant == variant]
        assert len({experiment.base_hash(unit.protocol) for unit in own}) == 1
        assert len({unit.protocol.hash() for unit in own}) == len(own) // len(
            experiment.dense_seeds
        )


def test_every_scale_has_an_experiment_and_the_laptop_its_constants() -> None:
    assert {"smoke", "clutter", "paper"} <= {scale for _, scale in PRESETS}
    clutter = catalogue.load_experiment("figure_02", "clutter")
    assert clutter.temperatures == (12, 18, 30, 42, 54, 66, 78, 96)
    assert clutter.loads == (0.06, 0.08, 0.1, 0.14, 0.2, 0.4)
    assert len(clutter.dense_seeds) >= 12
    assert len(clutter.retrain_seeds) >= 3
    assert clutter.protocol.data == Data("digits-clutter", crop=1, flip=False)
    dense = catalogue.load_scale("clutter").dense
    assert (dense.batch_size, dense.epochs, dense.milestones) == (32, 96, (48, 72))
    # seeds on which constants were judged are not counted as results
    judged = catalogue.load_experiment("weight_decay", "clutter")
    assert not set(judged.dense_seeds) & set(clutter.dense_seeds)


def write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """A catalogue of one experiment, ``mine``, that begins with ``text``."""
    shutil.copytree(catalogue.PROTOCOLS / "scales", tmp_path / "scales")
    head = 'title = ""\nsource = ""\ntemperature = "epochs"\nload = "width"\n'
    seeds = "dense_seeds = [0]\nretrain_seeds = [0, 1]"
    smoke = f'[smoke]\nepochs = [2]\nwidth = [0.5, 2]\n{seeds}\nset."net.depth" = 11'
    (tmp_path / "mine.toml").write_text(f"{head}{text}\n{smoke}")
    monkeypatch.setattr(catalogue, "PROTOCOLS", tmp_path)


def test_an_experiment_sets_fields_of_its_scales(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(monkeypatch, tmp_path, '[set]\n"net.name" = "vgg"\n"net.depth" = 19\n')
    mine = catalogue.load_experiment("mine", "smoke")
    # a scale's own come last
    expected = catalogue.load_scale("smoke").update({"net.name": "vgg", "net.depth": 11})
    assert mine.protocol == expected
    # VGG has no net of the default depth, which the identity of the diagram does not need
    unit = mine.with_fields({"net.depth": 13}).units()[1]
    assert unit.protocol.net == Net("vgg", 13, 2.0)
    assert mine.base_hash(unit.protocol) != mine.base_hash(mine.units()[1].protocol)
    depth = replace(mine, load="depth", loads=(11, 13))
    assert len({depth.base_hash(unit.protocol) for unit in depth.units()}) == 1
    assert depth.coordinates(unit.protocol, "data", "net", "dense") == {"epochs": 2, "depth": 13}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"net.name" = "resnet"', "net.name = 'resnet' is not allowed: one of preresnet"),
        ('"net.name" = "densenet"', "net.depth = 11 is not allowed: a DenseNet has 3n+4 layers"),
        ('"net.hight" = 1', "field net.hight = 1 is not allowed: name, depth, width"),
        ('"nett.depth" = 1', "section = 'nett' is not allowed"),
        ('"net.name" = "vgg"\n"pruning.density" = 5', "pruning.density = 5.0 is not allowed"),
    ],
)
def test_what_an_experiment_sets_is_checked(
    text: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write(monkeypatch, tmp_path, f"[set]\n{text}")
    with pytest.raises(ThreeRegimeError, match=re.escape(words)) as caught:
        catalogue.load_experiment("mine", "smoke")
    assert "\n" not in str(caught.value)


def test_the_papers_other_figures_are_set_as_in_the_paper() -> None:
    paper = {
        name: catalogue.load_experiment(name, "paper")
        for name, scale in PRESETS
        if scale == "paper"
    }
    assert paper["figure_08"].protocol.net == Net("densenet", 40)
    assert paper["figure_09"].protocol.net == Net("vgg", 19)
    assert paper["figure_10"].protocol.data == Data("cifar100")
    assert paper["figure_11"].protocol.data == Data("svhn")
    assert paper["figure_12"].protocol.pruning.method == "global"
    for group in (4, 16):
        structured = paper[f"structured_{group}"]
        assert {u.protocol.pruning.method for u in structured.units()} == {"n:m"}
        assert {u.protocol.pruning.group for u in structured.units()} == {group}
        assert 0.5 in structured.loads
    assert paper["figure_03_width"].loads == (0.5, 1, 2, 4, 6, 8)
    assert paper["figure_15"].loads == (20, 32, 44, 56, 80, 152)
    for name in ("figure_03_width", "figure_15"):
        assert paper[name].protocol.pruning.density == 0.05
    translation = paper.pop("figure_14")
    assert translation.protocol.net == Net("transformer", 6)
    assert translation.protocol.data.images == 1_280_000
    assert translation.protocol.dense.warmup == translation.protocol.retraining.warmup == 4000
    assert translation.temperatures == tuple(range(1, 11))
    assert (len(translation.loads), translation.loads[0], translation.loads[-1]) == (6, 0.05, 0.8)
    assert (len(translation.dense_seeds), len(translation.retrain_seeds)) == (1, 3)
    measured = {"metrics.early": [], "metrics.hessian": 0}
    diagnostics, whole = (paper[n].with_fields(measured) for n in ("diagnostics", "figure_02"))
    assert diagnostics.protocol == whole.protocol
    assert (diagnostics.temperatures, diagnostics.loads) == (whole.temperatures, whole.loads)
    for axis, count in (("epochs", 1), ("batch_size", 1), ("rho", 1)):
        over = {e.temperatures for e in paper.values() if e.temperature == axis}
        assert len(over) == count


def test_variants_change_the_protocol() -> None:
    experiment = catalogue.load_experiment("weight_decay", "clutter")
    assert set(experiment.variants) == {"1e-4", "1e-3", "2e-3", "4e-3"}
    for variant in experiment.variants:
        protocol = experiment.unit(variant, 8, 0.05, 100).protocol
        assert protocol.dense.weight_decay == protocol.retraining.weight_decay == float(variant)


def test_only_with_seeds_and_override() -> None:
    experiment = catalogue.load_experiment("figure_02", "smoke")
    cells = experiment.with_values(density=[0.33, 0.05, 0.33], epochs=[3.0])
    assert cells.temperatures == (3,)
    assert repr(cells.temperatures[0]) == "3"  # a whole number again
    assert cells.loads == (0.33, 0.05)
    assert experiment.with_values() == experiment
    assert experiment.with_seeds(3, 4).dense_seeds == (0, 1, 2)
    assert experiment.with_seeds(3, 4).retrain_seeds == (0, 1, 2, 3)
    wide = experiment.with_fields({"net.width": 0.5, "dense.epochs": 9, "dense.milestones": [5, 8]})
    assert wide.protocol.net.width == 0.5
    assert wide.units()[0].protocol.dense.epochs == 9
    # either order of fields that only fit together
    assert experiment.with_fields({"dense.milestones": [5, 8], "dense.epochs": 9}).protocol == (
        experiment.with_fields({"dense.epochs": 9, "dense.milestones": [5, 8]}).protocol
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda e: e.with_values(width=[1.0]),
            "'width' is not an axis of figure_02: epochs or density",
        ),
        (lambda e: e.with_values(epochs=[2.5]), "epochs = 2.5 is not allowed: a whole number"),
        (
            lambda e: e.with_values(epochs=[float("inf")]),
            "epochs = inf is not allowed: a whole number",
        ),
        (
            lambda e: catalogue.load_experiment("figure_15", "smoke").with_values(depth=[8.5]),
            "depth = 8.5 is not allowed: a whole number",
        ),
        (
            lambda e: (
                catalogue.load_experiment("figure_15", "smoke").with_values(depth=[9]).units()
            ),
            "net.depth = 9 is not allowed: a PreResNet has 6n+2 layers",
        ),
        (
            lambda e: (
                catalogue.load_experiment("figure_03_width", "smoke").with_values(width=[0]).units()
            ),
            "net.width = 0.0 is not allowed: a factor above 0",
        ),
        (lambda e: e.with_values(density=[float("nan")]), "density = nan is not allowed: a number"),
        (lambda e: e.with_values(density=[0.0]).units(), "a fraction in (0, 1]"),
        (lambda e: e.with_values(epochs=[99]).units(), "an epoch from 1 to 4"),
        (lambda e: e.with_seeds(0, 2), "at least 1 dense and 2 retraining"),
        (lambda e: e.with_seeds(1, 1), "at least 1 dense and 2 retraining"),
        (lambda e: e.with_fields({"net.depth": 9}), "6n+2"),
        (lambda e: catalogue.load_experiment("figure_02", "huge"), "figure_02 has smoke, clutter"),
        (lambda e: catalogue.load_experiment("figure_2", "smoke"), "figure_02"),
        (lambda e: catalogue.load_scale("huge"), "one of clutter, "),
    ],
)
def test_experiments_refuse_in_one_line(change: Any, words: str) -> None:
    with pytest.raises(ThreeRegimeError, match=re.escape(words)) as caught:
        change(catalogue.load_experiment("figure_02", "smoke"))
    assert "\n" not in str(caught.value)
