"""Pruned nets that a page runs itself: a line between two copies, and pruning, by slider.

``web/live_nets.json`` holds a pair of retrained copies from each regime, and the dense net of one
pair; ``python -m threeregime.figures.live_nets`` trains them and writes it. `LineWalk` and
`LivePruning` are the widgets; the scripts in ``web/`` run the nets in the reader's browser.
"""

from __future__ import annotations

import argparse
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import torch
import traitlets
from torch import Tensor

from threeregime._files import atomic_write
from threeregime._paths import WEB
from threeregime.analysis import Study
from threeregime.data import Dataset, load_task, stream_seed
from threeregime.errors import ThreeRegimeError
from threeregime.experiments import load_experiment
from threeregime.fleet import Fleet, State, cpu_engine
from threeregime.metrics import PairMetrics, line_points, measure_pairs, reestimate_batch_norm
from threeregime.models import net_builder
from threeregime.protocol import Protocol
from threeregime.pruning import prune_masks
from threeregime.results import NUMBERS, commit
from threeregime.training import Callback, TrainingRun, evaluate_errors, train

FILE = WEB / "live_nets.json"
EXPERIMENT, SCALE = "figure_02", "clutter"
CERTAINTY = 0.95
"""A cell stands for a regime if this share of the bootstrap replicates agree on it."""
EXAMPLES = 120
"""Training examples in the page: the errors on the line are theirs."""
PICTURES = 40
"""Test pictures on the sheet."""
PRUNING_PICTURES = 60
"""Test pictures for the error of the pruned net."""
STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class ChosenPair:
    """A pair of retrained copies, as named by the tables of a phase diagram."""

    regime: str
    epochs: int
    density: float
    dense_seed: int
    retrain_seeds: tuple[int, int]


def choose_pairs(study: Study, certainty: float = CERTAINTY) -> list[ChosenPair]:
    """Return a typical pair of copies from each regime.

    The cell is the one with the lowest test error at the highest load at which the seeds are sure
    of the regime. Of its pairs, the one whose LMC is nearest to the cell's mean is taken.

    Raises:
        ThreeRegimeError: the seeds are sure of no cell of a regime.
    """
    cells, pairs = study.diagram.cells, study.tables.pairs
    chosen = []
    for regime, column in (("I", "p_I"), ("II-A", "p_IIA"), ("II-B", "p_IIB")):
        sure = cells[(cells["regime"] == regime) & (cells[column] >= certainty)]
        if sure.empty:
            raise ThreeRegimeError(f"{study.diagram.title} has no cell that is surely in {regime}")
        cell = sure.sort_values(["density", "test_error"]).iloc[0]
        same = (pairs["epochs"] == cell["epochs"]) & (pairs["density"] == cell["density"])
        candidates = pairs[same].sort_values(["dense_seed", "seed_a", "seed_b"])
        pair = candidates.loc[(candidates["lmc"] - cell["lmc"]).abs().idxmin()]
        seeds = (int(pair["seed_a"]), int(pair["seed_b"]))
        dense_seed = int(pair["dense_seed"])
        density = float(cell["density"])
        chosen.append(ChosenPair(regime, int(cell["epochs"]), density, dense_seed, seeds))
    return chosen


class _Stops(Callback):
    """Keeps the state of a fleet at some epochs."""

    def __init__(self, stops: Sequence[int]) -> None:
        self.stops, self.states = set(stops), dict[int, State]()

    def on_epoch_end(self, run: TrainingRun) -> None:
        if run.epoch in self.stops:
            self.states[run.epoch] = {k: v.clone() for k, v in run.fleet.state().items()}


def train_pairs(
    protocol: Protocol, task: Dataset, chosen: Sequence[ChosenPair]
) -> tuple[State, State]:
    """Train some pairs of copies as a sweep does.

    Returns:
        The states of the dense net of each pair [P, ...], and of the copies [2P, ...], in which
        the copies of a pair follow each other.
    """
    build = net_builder(protocol.net, task)
    engine = cpu_engine(build, task.dummy_input(1).shape)
    seeds = sorted({pair.dense_seed for pair in chosen})
    initial = [stream_seed("initial", seed) for seed in seeds]
    fleet = Fleet.initial(build, initial, **engine.fleet_options)
    stops = _Stops([pair.epochs for pair in chosen])
    order = [stream_seed("dense", seed) for seed in seeds]
    epochs = max(stops.stops)
    train(fleet, task, protocol.dense, order, epochs=epochs, engine=engine, callback=stops)
    dense = [
        {k: v[seeds.index(pair.dense_seed)] for k, v in stops.states[pair.epochs].items()}
        for pair in chosen
    ]
    state = {name: torch.stack([net[name] for net in dense]) for name in dense[0]}
    members = fleet.with_state({k: v.repeat_interleave(2, dim=0) for k, v in state.items()})
    masks = prune_masks(members, [pair.density for pair in chosen for _ in range(2)])
    order = [stream_seed("retrain", p.dense_seed, s) for p in chosen for s in p.retrain_seeds]
    train(members, task, protocol.retraining, order, masks=masks, engine=engine)
    return state, members.state()


# --- nets as text


def pack_floats(values: Tensor, dtype: str = "<f2") -> str:
    """Return numbers as base64 of little-endian floats, of two bytes by default."""
    return b64encode(values.detach().numpy().astype(dtype).tobytes()).decode()


def unpack_floats(text: str, dtype: str = "<f2") -> Tensor:
    """Return the numbers of `pack_floats` as float32."""
    return torch.from_numpy(np.frombuffer(b64decode(text), dtype).astype(np.float32))


def _flat(net: Mapping[str, Tensor], statistics: bool) -> Tensor:
    """Return the parameters of one net, or the statistics of its batch norm, one after another."""
    return torch.cat([v.flatten() for k, v in net.items() if k.endswith(STATISTICS) == statistics])


def pack_pair(state: State, first: int) -> dict[str, Any]:
    """Return two members of a fleet as text: the mask of nonzero weights, and those weights."""
    nets = [_flat({k: v[first + side] for k, v in state.items()}, False) for side in range(2)]
    halves = [net.half().float() for net in nets]
    kept = (halves[0] != 0) | (halves[1] != 0)
    mask = b64encode(np.packbits(kept.numpy(), bitorder="little").tobytes()).decode()
    return {"mask": mask, "copies": [pack_floats(net[kept]) for net in halves]}


def unpack_pair(shapes: Sequence[tuple[str, Sequence[int]]], pair: Mapping[str, Any]) -> State:
    """Return the copies of `pack_pair` [2, ...]; the statistics of batch norm are 0 and 1."""
    sizes = [int(np.prod(shape)) for name, shape in shapes if not name.endswith(STATISTICS)]
    bits = np.frombuffer(b64decode(pair["mask"]), np.uint8)
    kept = torch.from_numpy(np.unpackbits(bits, count=sum(sizes), bitorder="little").astype(bool))
    flat = torch.zeros(2, sum(sizes))
    for side, text in enumerate(pair["copies"]):
        flat[side, kept] = unpack_floats(text)
    parts = iter(flat.split(sizes, dim=1))
    state = {}
    for name, shape in shapes:
        if name.endswith(STATISTICS):
            state[name] = torch.full((2, *shape), float(name.endswith("running_var")))
        else:
            state[name] = next(parts).reshape(2, *shape)
    return state


def pack_dense(net: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return one net as text: its parameters, and the statistics of its batch norm."""
    return {
        "weights": pack_floats(_flat(net, False)),
        "statistics": pack_floats(_flat(net, True), "<f4"),
    }


def unpack_dense(shapes: Sequence[tuple[str, Sequence[int]]], net: Mapping[str, Any]) -> State:
    """Return the net of `pack_dense` as a fleet of one [1, ...]."""
    flat = {False: unpack_floats(net["weights"]), True: unpack_floats(net["statistics"], "<f4")}
    state = {}
    for name, shape in shapes:
        kind, size = name.endswith(STATISTICS), int(np.prod(shape))
        state[name] = flat[kind][:size].reshape(1, *shape)
        flat[kind] = flat[kind][size:]
    return state


def pack_images(images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return uint8 images [count, channels, height, width] and their labels as text."""
    text = b64encode(images.numpy().tobytes()).decode()
    return {"shape": list(images.shape), "images": text, "labels": labels.tolist()}


# --- the shipped nets


@dataclass(frozen=True)
class LiveNets:
    """The nets of ``live_nets.json`` with the pictures that the page shows them.

    Attributes:
        stored: content of the file.
        task: the whole data set.
        examples: the same test pictures, and the training examples in the page.
    """

    stored: dict[str, Any]
    task: Dataset
    examples: Dataset

    @classmethod
    def load(cls, path: Path = FILE) -> LiveNets:
        """Read the nets, and make their data."""
        stored = json.loads(path.read_text(encoding="utf-8"))
        task = load_task(Protocol.from_dict(stored["provenance"]["protocol"]).data)
        assert isinstance(task, Dataset)
        return cls(stored, task, task.reduced(EXAMPLES, None))

    @property
    def chosen(self) -> list[ChosenPair]:
        """The pairs, in the order of the file."""
        names = ChosenPair.__dataclass_fields__
        found = [{name: pair[name] for name in names} for pair in self.stored["pairs"]]
        return [ChosenPair(**{**p, "retrain_seeds": tuple(p["retrain_seeds"])}) for p in found]

    def _fleet(self, state: State) -> Fleet:
        protocol = Protocol.from_dict(self.stored["provenance"]["protocol"])
        return Fleet(net_builder(protocol.net, self.task), state)

    def copies(self) -> Fleet:
        """Return the fleet of all copies, those of a pair one after the other.

        The statistics of their batch norm are not in the file: they are re-estimated.
        """
        shapes = self.stored["shapes"]
        pairs = [unpack_pair(shapes, pair) for pair in self.stored["pairs"]]
        fleet = self._fleet({name: torch.cat([p[name] for p in pairs]) for name in pairs[0]})
        reestimate_batch_norm(fleet, self.task)
        return fleet

    def dense(self, count: int = 1) -> Fleet:
        """Return a fleet of ``count`` times the dense net."""
        net = unpack_dense(self.stored["shapes"], self.stored["dense"])
        return self._fleet({name: torch.cat([v] * count) for name, v in net.items()})

    def measure(self, all_examples: bool = False) -> PairMetrics:
        """Measure the pairs, on the training examples in the page or on all."""
        fleet, task = self.copies(), self.task if all_examples else self.examples
        pairs = [(2 * k, 2 * k + 1) for k in range(len(self.stored["pairs"]))]
        return measure_pairs(fleet, pairs, task)

    def pruned_errors(self, densities: Sequence[float]) -> Tensor:
        """Return the errors of the dense net, pruned and not retrained: [densities], float64.

        They are those of the test pictures in the page.
        """
        fleet = self.dense(len(densities))
        masks, state = prune_masks(fleet, densities), fleet.state()
        fleet.load({k: v * masks[k] if k in masks else v for k, v in state.items()})
        images, labels = (part[:PRUNING_PICTURES] for part in self.task.split(train=False))
        shown = {**vars(self.task), "test_images": images, "test_labels": labels}
        return evaluate_errors(fleet, Dataset(**shown), train=False)

    def _content(self, pictures: int) -> dict[str, Any]:
        test = (part[:pictures] for part in self.task.split(train=False))
        return {
            "shapes": self.stored["shapes"],
            "mean": list(self.task.mean),
            "std": list(self.task.std),
            "pictures": pack_images(*test),
        }

    def line_walk(self, t: float = 0.5) -> LineWalk:
        """Return the widget that walks the lines of all pairs, opened at a point of the first."""
        highest = float(self.measure().curve.max())
        content = {
            **self._content(PICTURES),
            "pairs": self.stored["pairs"],
            "examples": pack_images(*self.examples.split(train=True)),
            "points": line_points().tolist(),
            "highest": min(1.0, 0.1 * np.ceil(10 * highest + 0.5)),
        }
        return LineWalk(content=content, t=t)

    def pruning(self, density: float = 1.0) -> LivePruning:
        """Return the widget that prunes the dense net, opened at a density."""
        names = sorted(self.dense().prunable())
        content = {
            **self._content(PRUNING_PICTURES),
            "dense": self.stored["dense"],
            "prunable": names,
        }
        return LivePruning(content=content, density=density)


# --- the widgets


def widget_script(view: str) -> str:
    """Return the script of a widget as one module, since modules in a page cannot import.

    Args:
        view: name of the function that shows it.
    """
    parts = ("drawing.js", "sparse_net.js", "live_nets.js")
    text = "\n".join((WEB / name).read_text(encoding="utf-8") for name in parts)
    return f"{text}\nexport default {{ render: ({{ model, el }}) => {view}(model, el) }};\n"


def _style() -> str:
    parts = ("explorer.css", "live_nets.css")
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in parts)


def _as_text(value: Any, widget: object = None) -> str:
    """JSON as one string, since stored notebooks put every number of a list on its own line."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


class LineWalk(anywidget.AnyWidget):
    """A walk from one retrained copy to the other; `LiveNets.line_walk` makes it.

    Attributes:
        content: the nets, the examples and the pictures.
        pair: number of the pair of copies.
        t: the point of the line, from 0 to 1.
    """

    _esm = widget_script("showLine")
    _css = _style()

    content = traitlets.Dict().tag(sync=True, to_json=_as_text)
    pair = traitlets.Int().tag(sync=True)
    t = traitlets.Float(0.5).tag(sync=True)

    def __repr__(self) -> str:
        return f"LineWalk(pair={self.pair}, t={self.t:g})"


class LivePruning(anywidget.AnyWidget):
    """Magnitude pruning of a dense net, layer by layer; `LiveNets.pruning` makes it.

    Attributes:
        content: the net and the pictures.
        density: fraction of the weights of each layer to keep.
    """

    _esm = widget_script("showPruning")
    _css = _style()

    content = traitlets.Dict().tag(sync=True, to_json=_as_text)
    density = traitlets.Float(1.0).tag(sync=True)

    def __repr__(self) -> str:
        return f"LivePruning(density={self.density:g})"


def write(path: Path = FILE) -> None:
    """Train the pairs and write the file."""
    study = Study.obtain(EXPERIMENT, SCALE, device="cpu")
    chosen = choose_pairs(study)
    protocol = load_experiment(EXPERIMENT, SCALE).protocol
    task = load_task(protocol.data)
    assert isinstance(task, Dataset)
    begin = time.monotonic()
    dense, copies = train_pairs(protocol, task, chosen)
    provenance = {
        "experiment": EXPERIMENT,
        "scale": SCALE,
        "protocol": protocol.to_dict(defaults=False),
        "numbers": NUMBERS,
        "commit": commit(),
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - begin, 1),
    }
    pairs = [{**asdict(p), **pack_pair(copies, 2 * k)} for k, p in enumerate(chosen)]
    last = {name: tensor[-1] for name, tensor in dense.items()}
    parent = {"epochs": chosen[-1].epochs, "dense_seed": chosen[-1].dense_seed, **pack_dense(last)}
    shapes = [(name, list(tensor.shape)) for name, tensor in last.items()]
    stored = {"provenance": provenance, "shapes": shapes, "pairs": pairs, "dense": parent}
    text = json.dumps(stored, indent=1) + "\n"
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    argparse.ArgumentParser(description="Train the nets of the page anew.").parse_args()
    write()
