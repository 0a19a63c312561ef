"""Advice on any module and any data, and one-line errors."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

import threeregime
from threeregime import cli
from threeregime._paths import ROOT
from threeregime.advice import advisor, calibration, user_data, user_files
from threeregime.advice.advice import Advice, Cost
from threeregime.advice.candidates import DenseErrors, Evidence, LiveTrials, default_retraining
from threeregime.advice.model import inspect_net, load_weights, state_of
from threeregime.data.task import stream_seed
from threeregime.data.tensors import TensorTask
from threeregime.errors import ThreeRegimeError

Pair = tuple[Tensor, Tensor]
CLASSES = 4


class Sentences(nn.Module):
    """A Transformer encoder that guesses a class, or with ``tied`` every next word."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tied = tied
        self.words = nn.Embedding(11, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(8, 11 if tied else CLASSES, bias=False)
        if tied:
            self.head.weight = self.words.weight
        mask = nn.Transformer.generate_square_subsequent_mask(6)  # with infinities
        self.register_buffer("mask", mask)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, words: Tensor) -> Tensor:
        seen = self.encoder(self.words(words) * self.scale, mask=self.mask)
        return self.head(seen if self.tied else seen.mean(dim=1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, CLASSES)
    )


def plain() -> nn.Module:
    """Convolutions without batch norm."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.GroupNorm(2, 6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, CLASSES),
    )


def line() -> nn.Module:
    """Convolutions along one dimension, with batch norm."""
    return nn.Sequential(
        nn.Flatten(2),
        nn.Conv1d(1, 4, 3, bias=False),  # Adam makes rounding errors of one before batch norm
        nn.BatchNorm1d(4),
        nn.Flatten(),
        nn.Linear(56, CLASSES),
    )


def solid() -> nn.Module:
    """Convolutions along three dimensions, batch norm with a mean over all batches."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 1)),
        nn.Conv3d(1, 4, (1, 3, 3)),
        nn.BatchNorm3d(4, momentum=None),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def pictures(count: int = 64, seed: int = 0) -> Pair:
    """Noise with a bright row, whose number is the class: [count, 1, 4, 4]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    inputs = 0.3 * torch.rand((count, 1, 4, 4), generator=generator)
    inputs[torch.arange(count), 0, labels] += 1
    return inputs, labels


def words(places: bool = False) -> Pair:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(11, (64, 6), generator=generator)
    following = inputs.roll(-1, dims=1)
    following[:, -1] = -100
    return inputs, following if places else inputs[:, 0] % CLASSES


def build_net(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def ask(model: nn.Module, data: Any, **options: Any) -> Advice:
    return threeregime.advise(model, data, **{"epochs": 2, "density": 0.3, **options})


class Silent:
    """A progress bar without output."""

    n = 0
    total = 0

    def set_description(self, text: str) -> None: ...
    def refresh(self) -> None: ...
    def update(self) -> None: ...


def live(model: nn.Module, data: Pair, copies: int = 2, **options: Any) -> LiveTrials:
    train = user_data.draw_split(data, 10_000, 0, "training")
    subject = inspect_net(model, train)
    task = TensorTask("made", train, None, subject.classes)
    recipe = default_retraining(task.count, False, **{"epochs": 2, "batch_size": 16, **options})
    return LiveTrials(
        subject, {"it": state_of(subject.module)}, task, 0.3, recipe, copies, 0, Silent()
    )


@pytest.fixture(autouse=True)
def without_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the shipped tables takes seconds: most tests go without."""
    monkeypatch.setattr(advisor, "load_calibration", lambda steps: None)


# --- any net --------------------------------------------------------------------------------------

NETS: dict[str, tuple[Callable[[], nn.Module], Pair, int]] = {
    "mlp": (mlp, pictures(), 1),
    "plain": (plain, pictures(), 2),
    "line": (line, pictures(), 1),
    "solid": (solid, pictures(), 1),
    # in_proj, out_proj and two linear layers
    "encoder": (Sentences, words(), 4),
    "tied": (lambda: Sentences(tied=True), words(places=True), 4),
}


@pytest.mark.parametrize("name", NETS)
def test_every_kind_of_net_is_advised_and_left_alone(name: str) -> None:
    build, data, layers = NETS[name]
    model = build_net(build).eval()
    before = copy.deepcopy(model.state_dict())
    random_states = (torch.random.get_rng_state(), random.getstate())
    answer = ask(model, data)
    assert answer.pruned["layers"] == layers
    assert answer.regime in ("I", "II-A", "II-B")
    assert len(answer.evidence[advisor.OWN].curve[0]) == 11
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key
    assert torch.equal(torch.random.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    # Dropout included, the seed determines everything.
    again = ask(model, data)
    assert again.evidence == answer.evidence
    assert json.loads(answer.to_json())["turn"] == answer.turn


@pytest.mark.slow
def test_torchvision_resnet18() -> None:
    from torchvision.models import resnet18

    generator = torch.Generator().manual_seed(0)
    data = (torch.randn((16, 3, 32, 32), generator=generator), torch.arange(16) % CLASSES)
    answer = ask(resnet18(num_classes=CLASSES), data, epochs=1, density=0.05, batch_size=8)
    assert answer.pruned["layers"] == 20  # 17 convolutions and 3 beside the shortcuts
    assert answer.pruned["classifier"] == "fc"
    assert answer.cost.steps == 4


# --- what the copies are --------------------------------------------------------------------------


@pytest.mark.parametrize("build", [plain, line])
def test_each_copy_is_the_net_trained_alone_in_the_same_order(
    build: Callable[[], nn.Module],
) -> None:
    """The reference: an ordinary module, optimizer and mask; of the engine but the order."""
    model, data = build_net(build), pictures()
    trials = live(model, data)
    fleet = trials._fleet("it", trials.copies)
    trials._train(fleet, "it", 2)
    together = fleet.state()
    masks = {n: together[n][0] != 0 for n in trials.net.prunable}
    split = trials.task.train
    for number in range(2):
        alone = copy.deepcopy(model).train()
        named = dict(alone.named_parameters())
        optimizer = torch.optim.Adam(alone.parameters(), lr=trials.recipe.lr)
        for name, mask in masks.items():
            named[name].data *= mask
            assert int(mask.sum()) == max(1, round(0.3 * mask.numel()))
        for epoch in range(2):
            seed = stream_seed(stream_seed("copy", 0, number), epoch)
            order = torch.randperm(64, generator=torch.Generator().manual_seed(seed))
            optimizer.param_groups[0]["lr"] = trials.recipe.lr * (0.1 if epoch else 1)
            for batch in order.split(16):
                optimizer.zero_grad()
                nn.functional.cross_entropy(
                    alone(split.inputs[batch]), split.targets[batch]
                ).backward()
                for name, mask in masks.items():
                    grad = named[name].grad
                    assert grad is not None
                    grad *= mask
                optimizer.step()
        for name, tensor in alone.state_dict().items():
            if name in together:
                torch.testing.assert_close(together[name][number], tensor, rtol=2e-4, atol=2e-5)
        for name, mask in masks.items():
            assert (together[name][number][~mask] == 0).all()


def test_identical_copies_are_connected_and_alike() -> None:
    trials = live(build_net(plain), pictures())
    evidence = trials._measure(trials._fleet("it", 2))
    assert evidence.lmc == 0
    assert evidence.cka == pytest.approx(1)
    assert len(set(evidence.curve[0])) == 1


def test_dense_error_is_that_of_the_model() -> None:
    model, (inputs, labels) = build_net(line), pictures()
    trials = live(model, (inputs, labels))
    with torch.no_grad():
        wrong = (model.eval()(inputs).argmax(1) != labels).double().mean()
    assert trials.dense_error("it") == pytest.approx(float(wrong))


def test_more_copies_make_more_pairs() -> None:
    answer = ask(build_net(mlp), pictures(), copies=3)
    evidence = answer.evidence[advisor.OWN]
    assert (len(evidence.curve), len(evidence.train)) == (3, 3)


def test_the_classifier_is_the_linear_layer_that_is_called_last() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(8, CLASSES), nn.Linear(16, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x.flatten(1)).relu())

    subject = inspect_net(Reversed(), user_data.draw_split(pictures(), 64, 0, "training"))
    assert (subject.classifier, subject.prunable) == ("head", ("body.weight",))


# --- any data -------------------------------------------------------------------------------------


class Numbered(Dataset[Any]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(index)), index % 2


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return ((torch.full((2,), float(n)), n % 2) for n in range(1000))


@pytest.mark.parametrize(
    ("data", "kept", "found"),
    [
        (Numbered(30), 30, 30),
        (Numbered(500), 100, 500),
        (DataLoader(Numbered(300), batch_size=7, shuffle=True), 100, 300),
        (DataLoader(Numbered(300), sampler=SubsetRandomSampler(range(20))), 20, 20),
        (TensorDataset(torch.zeros(9, 2), torch.arange(9) % 2), 9, 9),
        ((np.zeros((9, 2), np.float32), np.arange(9) % 2), 9, 9),
        (Streamed(), 100, None),
        (DataLoader(Streamed(), batch_size=64), 100, None),
    ],
)
def test_data_of_every_kind(data: Any, kept: int, found: int | None) -> None:
    split = user_data.draw_split(data, 100, 0, "training")
    assert (len(split.targets), split.available) == (kept, found)
    assert split.targets.dtype == torch.int64
    if split.inputs.any():
        assert (split.inputs[:, 0].long() % 2 == split.targets).all()
        assert len(split.inputs[:, 0].unique()) == kept
    again = user_data.draw_split(data, 100, 0, "training")
    assert torch.equal(split.inputs, again.inputs)


def test_examples_come_mixed_and_another_seed_draws_others() -> None:
    one, other = (
        user_data.draw_split(Numbered(500), 100, seed, "training").inputs for seed in (0, 1)
    )
    assert not torch.equal(one, one.sort(dim=0).values)
    assert not torch.equal(one, other)


def test_large_examples_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_data, "MAX_BYTES", 8 * 40)
    assert len(user_data.draw_split(Numbered(500), 100, 0, "training").targets) == 40
    assert (
        len(
            user_data.draw_split(
                (torch.zeros(99, 2), torch.zeros(99).long()), 90, 0, "test"
            ).targets
        )
        == 40
    )


# --- what is said ---------------------------------------------------------------------------------


def answer(lmc: float = -0.2, cka: float = 0.9, chances: Any = None, **fields: Any) -> Advice:
    evidence = Evidence(lmc, cka, ((0.1, 0.3, 0.1),), (0.1, 0.1), None)
    values: dict[str, Any] = {
        "regime": "I" if lmc < -0.05 else "II-A",
        "probabilities": chances,
        "basis": "made up",
        "chosen": "a",
        "rule": "",
        "density": 0.05,
        "evidence": {"a": evidence},
        "dense": {"a": DenseErrors(0.0, None)},
        "retraining": {
            "optimizer": "sgd",
            "lr": 0.1,
            "milestones": [1],
            "epochs": 2,
            "batch_size": 12,
            "copies": 2,
            "seed": 0,
        },
        "pruned": {"weights": 100, "layers": 2, "classifier": "fc"},
        "examples": {"train": 100, "train_found": 200, "test": None, "test_found": None},
        "cost": Cost(4, 40, 1.0, "cpu"),
    }
    return Advice(**{**values, **fields})


@pytest.mark.parametrize(
    ("dense", "warns"), [(0.9, True), (0.51, True), (0.4, False), (0.0, False)]
)
def test_an_untrained_net_gets_a_caution(dense: float, warns: bool) -> None:
    advice = str(answer(dense={"a": DenseErrors(dense, None)}))
    assert ("Train it first" in advice) == warns


@pytest.mark.parametrize(
    ("lmc", "cka", "regime", "turn", "said"),
    [
        (-0.2, 0.9, "I", "hotter", "stop the dense run earlier"),
        (-0.01, 0.9, "II-A", "colder", "for longer"),
        (0.0, 0.99, "II-B", "stay", "prune the net as it is"),
    ],
)
def test_regimes_without_tables_are_split_as_the_papers(
    lmc: float, cka: float, regime: str, turn: str, said: str
) -> None:
    evidence = Evidence(lmc, cka, ((0.1, 0.1, 0.1),), (0.1, 0.1), None)
    got, chances, basis = advisor._regime(evidence, None)
    assert (got, chances) == (regime, None)
    assert "no tables" in basis
    advice = answer(lmc, cka, regime=got)
    assert advice.turn == turn
    assert said in str(advice)


def test_similar_probabilities_are_open() -> None:
    even = answer(-0.06, chances={"I": 0.5, "II-A": 0.45, "II-B": 0.05})
    assert even.open
    assert str(even).startswith("Open (I 50%, II-A 45%, II-B 5%)")
    torn = answer(-0.03, chances={"I": 0.98, "II-A": 0.02, "II-B": 0.0})
    assert torn.open
    assert "Regime II-A (train colder), but of nets which looked like it most ended in" in str(torn)
    sure = answer(-0.2, chances={"I": 0.97, "II-A": 0.03, "II-B": 0.0})
    assert not sure.open
    assert str(sure).startswith("Regime I, probability 97%")


def test_json_holds_everything_and_no_nan() -> None:
    broken = Evidence(math.nan, math.nan, ((math.nan,) * 3,), (math.nan, 0.1), None)
    whole = answer(chances={"I": 1.0, "II-A": 0.0, "II-B": 0.0})
    written = json.loads(whole.to_json())
    assert written["evidence"] == json.loads(json.dumps(dataclasses.asdict(whole)["evidence"]))
    assert (written["regime"], written["turn"]) == (whole.regime, whole.turn)
    several = answer(evidence={**whole.evidence, "b": broken})
    text = several.to_json()
    assert "NaN" not in text
    assert json.loads(text)["evidence"]["b"]["lmc"] is None


def test_probabilities_are_those_of_the_shipped_tables() -> None:
    fit = calibration.load_calibration(300)
    assert fit is not None
    assert len(fit.pairs) > 400
    pairs = [(lmc, fit.probabilities(lmc, 1 - 10**apart)) for lmc, apart in fit.pairs]
    answers = sorted((lmc, chances["I"]) for lmc, chances in pairs if chances is not None)
    assert answers[0][1] > 0.9 > 0.6 > answers[-1][1]
    assert all(chances is None or sum(chances.values()) == pytest.approx(1) for _, chances in pairs)
    # No net of ours is so poorly connected and yet answers so alike.
    assert fit.probabilities(-0.6, 0.999) is None


def test_without_tables_there_is_no_probability(tmp_path: Path) -> None:
    assert calibration.load_calibration(300, tmp_path) is None


# --- several checkpoints --------------------------------------------------------------------------


def trained(build: Callable[[], nn.Module], data: Pair, epochs: tuple[int, ...]) -> dict[str, Any]:
    """State of a net after so many epochs."""
    net, states = build_net(build), {}
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            states[f"epoch_{epoch}"] = copy.deepcopy(net.state_dict())
        for batch in torch.arange(len(data[1])).split(16):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(data[0][batch]), data[1][batch]).backward()
            optimizer.step()
    return states


def test_the_best_dense_net_is_pruned_where_its_copies_are_connected() -> None:
    states = trained(plain, pictures(), (0, 12))
    advice = ask(build_net(plain), pictures(), checkpoints=states, density=0.5)
    assert (advice.chosen, advice.rule) == ("epoch_12", "Algorithm 2.1")
    assert list(advice.evidence) == ["epoch_12"]
    assert "compared by their training error" in str(advice)
    tested = ask(build_net(plain), pictures(), test_data=pictures(seed=1), checkpoints=states)
    assert tested.rule == "Algorithm 2"
    assert "dense test error" in str(tested)


def test_in_regime_i_all_are_retrained_and_the_rule_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measure = LiveTrials._measure

    def poor(self: LiveTrials, fleet: Any) -> Evidence:
        evidence = measure(self, fleet)
        cka = 0.5 + len(self.evidence) / 10
        return Evidence(-0.5, cka, evidence.curve, evidence.train, evidence.test)

    monkeypatch.setattr(LiveTrials, "_measure", poor)
    states = trained(mlp, pictures(), (0, 1, 8))
    nan = {name: torch.full_like(t, torch.nan) for name, t in states["epoch_0"].items()}
    advice = ask(build_net(mlp), pictures(), checkpoints={"ill": nan, **states}, epochs=1)
    # The best dense net comes first, the diverged one is passed over.
    assert list(advice.evidence) == ["epoch_8", "epoch_0", "epoch_1"]
    assert advice.chosen == "epoch_1"
    assert advice.turn == "hotter"
    assert "unknown (diverged)" in str(advice)


def test_checkpoints_as_they_are_saved(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = build_net(lambda: Sentences(tied=True))
    state = model.state_dict()
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    for given in (state, {"state_dict": state, "epoch": 3}, {"model": wrapped}):
        torch.save(given, tmp_path / "a.pt")
        got = load_weights(model, user_files.read_weights(tmp_path / "a.pt"), "a")
        assert all(torch.equal(got[name], t) for name, t in model.named_parameters())
    # Of tied weights one is enough.
    save_file(
        {n: t.clone() for n, t in state.items() if n != "head.weight"}, tmp_path / "a.safetensors"
    )
    got = load_weights(model, user_files.read_weights(tmp_path / "a.safetensors"), "a")
    assert torch.equal(got["words.weight"], state["words.weight"])


def test_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        (tmp_path / f"epoch_{number}.pt").write_text("")
    files = user_files.find_files([str(tmp_path / "epoch_*.pt")])
    assert list(user_files.name_files(files)) == ["epoch_1", "epoch_2", "epoch_10"]
    twins = [Path("a/last.pt"), Path("b/last.pt")]
    assert list(user_files.name_files(twins)) == ["a/last.pt", "b/last.pt"]


# --- what a user can put right --------------------------------------------------------------------


def broken(value: float) -> nn.Module:
    net = build_net(mlp)
    next(net.parameters()).data[0, 0] = value
    return net


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


INPUTS, LABELS = pictures()


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (
            mlp(),
            (INPUTS, LABELS),
            {"density": 0},
            "density = 0 is not allowed: a fraction in (0, 1]",
        ),
        (mlp(), (INPUTS, LABELS), {"density": 2}, "density = 2 is not allowed"),
        (mlp(), (INPUTS, LABELS), {"copies": 1}, "copies = 1 is not allowed: 2 or more"),
        (mlp(), (INPUTS, LABELS), {"epochs": 0}, "epochs = 0 is not allowed"),
        (mlp(), (INPUTS, LABELS), {"lr": 0.0}, "retraining.lr = 0.0 is not allowed"),
        (mlp(), (INPUTS, LABELS), {"optimizer": "lion"}, "'lion' is not allowed: one of sgd, adam"),
        (mlp(), (INPUTS, LABELS), {"batch_size": 65}, "batch_size = 65 is not allowed: from 2 to"),
        (mlp(), (INPUTS, LABELS), {"device": "tpu7"}, "device = 'tpu7' is not available"),
        (mlp(), (INPUTS, LABELS), {"checkpoints": {}}, "checkpoints = {} is not allowed"),
        (mlp(), (INPUTS, LABELS), {"lr": 1e30}, "diverged in retraining: give a lower lr"),
        (mlp(), (INPUTS[:, :, :3], LABELS), {}, "cannot take inputs of shape [8, 1, 3, 4]"),
        (mlp(), (INPUTS, LABELS[:9]), {}, "64 training inputs but 9 labels"),
        (mlp(), (INPUTS[:0], LABELS[:0]), {}, "the training data are empty"),
        (mlp(), (INPUTS[:1], LABELS[:1]), {}, "one training example: give two or more"),
        (mlp(), (INPUTS, LABELS - 1), {}, "label -1 is not allowed: the net has 4 outputs"),
        (mlp(), (INPUTS, LABELS + 1), {}, "label 4 is not allowed: the net has 4 outputs"),
        (mlp(), (INPUTS, LABELS.float()), {}, "labels of type torch.float32 are not allowed"),
        (mlp(), (INPUTS * torch.nan, LABELS), {}, "inputs hold NaN"),
        (mlp(), (INPUTS, LABELS[:, None]), {}, "outputs are [8, 4] for labels of shape [8, 1]"),
        (mlp(), 7, {}, "data of type int are not allowed: a DataLoader, a Dataset"),
        (mlp(), [1, 2, 3], {}, "is not (inputs, labels)"),
        (mlp(), [], {}, "the training data are empty"),
        (mlp(), "nowhere", {}, "nowhere/train is missing"),
        (
            mlp(),
            (INPUTS, LABELS),
            {"test_data": (torch.zeros(4, 16), LABELS[:4])},
            "test inputs are of shape (16,), training inputs of (1, 4, 4)",
        ),
        (nn.Flatten(), (INPUTS, LABELS), {}, "no convolution or linear layer"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 4)), (INPUTS, LABELS), {}, "nothing to prune"),
        (nn.Conv2d(1, 4, 3), (INPUTS, LABELS), {}, "outputs are [8, 4, 2, 2] for labels of"),
        (Two(), (INPUTS, LABELS), {}, "the net's outputs are tuple"),
        (nn.LazyLinear(4), (INPUTS, LABELS), {}, "lazy layers"),
        (broken(torch.nan), (INPUTS, LABELS), {}, "the net has diverged: 1.weight is not finite"),
        (broken(torch.inf), (INPUTS, LABELS), {}, "the net has diverged"),
        ("resnet", (INPUTS, LABELS), {}, "a net of type str is not allowed"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_an_error_is_one_line(model: Any, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        ask(model, data, **options)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {n: t for n, t in s.items() if n != "1.bias"}, "it lacks 1.bias"),
        (lambda s: {**s, "fc.weight": s["1.bias"]}, "fc.weight is not in the net"),
        (lambda s: {**s, "1.bias": torch.zeros(3)}, "1.bias is [3], in the net [24]"),
        (lambda s: {**s, "1.bias": 3}, "1.bias is no tensor"),
        (lambda s: [1], "holds no weights by name"),
        (lambda s: {n: t * torch.nan for n, t in s.items()}, "x has diverged"),
    ],
)
def test_a_checkpoint_that_does_not_fit(change: Callable[[Any], Any], message: str) -> None:
    model = build_net(mlp)
    with pytest.raises(ThreeRegimeError, match=re.escape(message)):
        ask(model, pictures(), checkpoints={"x": change(model.state_dict())})


def test_no_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: LiveTrials, fleet: Any, candidate: str, epochs: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(LiveTrials, "_train", full)
    with pytest.raises(
        ThreeRegimeError, match="no memory left for 2 copies at batch_size = 8: give"
    ):
        ask(build_net(mlp), pictures())


# --- the command ----------------------------------------------------------------------------------

NET = """
import torch
from torch import nn

def build(width=4):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64 * width, 10),
    )

def fails():
    raise KeyError("no")

def noise():
    return torch.rand(40, 1, 8, 8), torch.arange(40) % 10
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of digits, a file with a net, and its weights."""
    root = tmp_path_factory.mktemp("advise")
    digits = load_digits()
    for number in range(120):
        split = "train" if number < 80 else "test"
        folder = root / "pictures" / split / str(digits.target[number])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[number] * 15).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "my_nets.py").write_text(NET)
    net = build_net(lambda: user_files.call_function(f"{root}/my_nets.py:build"))
    train, _ = user_data.load_folder(root / "pictures", grey=True)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for epoch in range(9):
        if epoch % 4 == 0:
            torch.save(net.state_dict(), root / f"epoch_{epoch}.pt")
        for batch in torch.arange(80).split(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(train.inputs[batch]), train.targets[batch]).backward()
            optimizer.step()
    return root


Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command in the folder of the files."""

    def run(*given: str) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["threeregime", "advise", *given])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capsys.readouterr()

    return run


QUICK = ("--data", "pictures", "--epochs", "1", "--density", "0.3", "--device", "cpu")


def test_the_command_with_random_weights(command: Command, place: Path) -> None:
    status, out, err = command("my_nets.py:build", *QUICK, "--figure", "barrier.png")
    assert (status, err) == (0, "")
    assert "training error on the line" in out.lower()
    assert "all 80 training examples, all 40 test examples" in out
    with Image.open(place / "barrier.png") as drawn:
        assert drawn.size[0] > 400


def test_the_command_with_trained_weights_as_json(command: Command) -> None:
    status, out, _ = command(
        "my_nets.py:build(width=4)", *QUICK, "--weights", "epoch_8.pt", "--json"
    )
    assert status == 0
    advice = json.loads(out)
    assert advice["chosen"] == "epoch_8"
    assert (
        advice["dense"]["epoch_8"]["train"] < 0.2
    )  # the pictures reach the net as it was trained on them


@pytest.mark.parametrize("given", [("--weights", "epoch_*.pt"), ("epoch_0.pt", "epoch_4.pt")])
def test_the_command_with_several(command: Command, given: tuple[str, ...]) -> None:
    status, out, _ = command("my_nets.py:build", *given, *QUICK, "--progress")
    assert status == 0
    assert out.startswith("Prune epoch_")
    assert "(Algorithm 2)" in out


def test_the_command_with_data_of_a_function(command: Command) -> None:
    sources = ("--data", "my_nets.py:noise", "--test", "my_nets.py:noise")
    options = ("--epochs", "1", "--density", "0.3", "--lr", "0.01")
    status, out, err = command("my_nets.py:build", *sources, *options)
    assert (status, err) == (0, "")
    assert "all 40 test examples" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("nets.py:build", *QUICK), "nets.py is missing: name a Python file"),
        (("my_nets.py:make", *QUICK), "my_nets.py has no function make"),
        (("my_nets.py", *QUICK), "is not of the form FILE.py:function"),
        (("my_nets.py:build(x)", *QUICK), "is no call of a function with numbers or words"),
        (("my_nets.py:fails", *QUICK), "my_nets.py:fails fails: KeyError"),
        (("no.such.module:f", *QUICK), "no.such.module cannot be imported"),
        (("my_nets.py:build", *QUICK, "--weights", "no.pt"), "no.pt is missing"),
        (("my_nets.py:build", *QUICK, "--weights", "no_*.pt"), "no_*.pt is missing"),
        (
            ("my_nets.py:build", *QUICK, "--weights", "my_nets.py"),
            "my_nets.py is no file of weights",
        ),
        (
            ("my_nets.py:build(width=5)", *QUICK, "--weights", "epoch_0.pt"),
            "epoch_0 is of another architecture: 0.weight is [4, 1, 3, 3], in the net [5, 1, 3, 3]",
        ),
        (("my_nets.py:build", "--data", "none"), "data = 'none' is not there"),
        (("my_nets.py:build", "--data", "pictures/train"), "pictures/train/train is missing"),
        (("my_nets.py:build",), "data = '' is not there"),
        (("my_nets.py:build", *QUICK, "--mean", "a"), "mean = 'a' is not allowed"),
        (("my_nets.py:build", *QUICK, "--std", "0"), "std = '0' is not allowed"),
        (
            ("my_nets.py:build", *QUICK, "--figure", "no/b.png"),
            "figure = 'no/b.png' is not allowed",
        ),
        (("my_nets.py:build", *QUICK, "--density", "2"), "density = 2.0 is not allowed"),
    ],
)
def test_the_command_prints_errors_as_one_line(
    command: Command, given: tuple[str, ...], message: str
) -> None:
    status, out, err = command(*given)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith("threeregime: ")
    assert len(err.splitlines()) == 1


# --- the README -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_readme_s_example_works_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ROOT
    section = (root / "README.md").read_text().split("## Advice for your own net")[1]
    section = section.split("\n## ")[0]
    (tmp_path / "examples").symlink_to(root / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(advisor, "load_calibration", calibration.load_calibration)
    (shell,) = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    for message in (line_.split("#")[0].split() for line_ in shell.splitlines()):
        if message[:1] == ["python"]:
            import runpy

            runpy.run_path(message[1], run_name="__main__")
        elif message:
            given = [word.strip("'\"") for word in message]
            assert given[:2] == ["threeregime", "advise"]
            monkeypatch.setattr(sys, "argv", [*given, "--epochs", "1", "--device", "cpu"])
            with pytest.raises(SystemExit) as caught:
                cli.main()
            assert not caught.value.code
            assert "Regime" in capsys.readouterr().out
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert "Regime" in capsys.readouterr().out
