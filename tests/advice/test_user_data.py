"""Data of every kind, labels of every kind, and one-line errors for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
)

from tests.advice.examples import CLASSES, ask, build_net, mlp, normed, pictures
from threeregime.advice import user_data
from threeregime.errors import ThreeRegimeError

INPUTS, LABELS = pictures()


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


class Fields(Dataset[Any]):
    """Examples that are dictionaries, with a text that is no input."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": f"number {index}", **{n: v[index] for n, v in self.fields.items()}}


@pytest.mark.parametrize(
    ("data", "kept", "found"),
    [
        (Numbered(30), 30, 30),
        (Numbered(500), 100, 500),
        (DataLoader(Numbered(300), batch_size=7, shuffle=True), 100, 300),
        (DataLoader(Numbered(300), sampler=SubsetRandomSampler(range(20))), 20, 20),
        (TensorDataset(torch.zeros(9, 2), torch.arange(9) % 2), 9, 9),
        ((np.zeros((9, 2), np.float32), np.arange(9) % 2), 9, 9),
        ([torch.zeros(9, 2), torch.arange(9) % 2], 9, 9),
        ((torch.zeros(9, 2), [0, 1, 2] * 3), 9, 9),
        ((list(torch.zeros(9, 2)), [0, 1, 2] * 3), 9, 9),
        ((list(np.zeros((9, 2))), ["a", "b", "c"] * 3), 9, 9),
        ({"data": np.zeros((9, 2)), "target": np.arange(9) % 2}, 9, 9),
        ((pd.DataFrame(np.zeros((9, 2))), pd.Series(np.arange(9) % 2)), 9, 9),
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
    arrays = (torch.zeros(99, 2), torch.arange(99))
    assert len(user_data.draw_split(arrays, 90, 0, "test").targets) == 40


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.astype(">f4"),
        lambda a: a.astype("<f8"),
        lambda a: a.astype(np.float16),
        lambda a: a.astype(np.longdouble),
        lambda a: np.asfortranarray(a),
        lambda a: a[..., ::-1].copy()[..., ::-1],
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: read_only(a.copy()),
        lambda a: np.array([*a, None], dtype=object)[:-1],
    ],
)
def test_arrays_of_every_layout(change: Any) -> None:
    split = user_data.draw_split((change(INPUTS.numpy()), LABELS.numpy()), 100, 0, "training")
    expected = user_data.draw_split((INPUTS, LABELS), 100, 0, "training")
    assert torch.allclose(split.inputs.float(), expected.inputs, atol=1e-3)
    assert torch.equal(split.targets, expected.targets)


def sparse_rows() -> Any:
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    return csr_matrix(INPUTS.flatten(1).numpy())


@pytest.mark.parametrize("inputs", [sparse_rows(), INPUTS.flatten(1).to_sparse()])
def test_sparse_inputs_are_made_dense(inputs: Any) -> None:
    split = user_data.draw_split((inputs, LABELS), 100, 0, "training")
    assert split.inputs.shape == (64, 16)
    assert split.inputs.layout == torch.strided


NAMES = np.array(["bird", "cat", "dog", "eel"])


@pytest.mark.parametrize(
    "labels",
    [
        LABELS.numpy().astype(str),
        LABELS.numpy().astype(str).astype(object),
        LABELS.numpy().astype(object),
        LABELS.numpy().astype(">i2"),
        LABELS.numpy().astype(np.uint16),
        LABELS.to(torch.uint8),
        LABELS[:, None],
        NAMES[LABELS.numpy()],
        NAMES.astype("S")[LABELS.numpy()],
        pd.Series(NAMES[LABELS.numpy()]).astype("category"),
    ],
)
def test_labels_of_every_kind(labels: Any) -> None:
    split = user_data.draw_split((INPUTS, labels), 100, 0, "training")
    expected = user_data.draw_split((INPUTS, LABELS), 100, 0, "training")
    assert torch.equal(split.targets, expected.targets)


def test_texts_of_a_data_set_are_numbered_alike_in_both_splits() -> None:
    data = [(x, NAMES[y]) for x, y in zip(INPUTS, LABELS.tolist(), strict=True)]
    train = user_data.draw_split(data, 100, 0, "training")
    assert train.names == tuple(NAMES)
    eels = [pair for pair in data if pair[1] == "eel"]
    test = user_data.draw_split(eels, 100, 0, "test", train.names)
    assert (test.targets == 3).all()
    with pytest.raises(ThreeRegimeError, match="the test label 'fox' is not in the training"):
        user_data.draw_split((INPUTS, np.array(["fox"] * 64)), 9, 0, "test", train.names)


def test_training_and_test_data_in_one_pair() -> None:
    train, test = pictures(), pictures(40, seed=1)
    sets = TensorDataset(*train), DataLoader(TensorDataset(*test))
    named = {"train": sets[0], "validation": sets[1]}
    for data in ((train, test), sets, named):
        answer = ask(build_net(mlp), data)
        assert (answer.examples["train"], answer.examples["test"]) == (51, 40)


class Named(nn.Module):
    """Takes one or two inputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.net = normed()

    def forward(self, pixel_values: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        assert attention_mask is None or attention_mask.shape == pixel_values.shape[:1]
        return self.net(pixel_values)


MASK = torch.ones(64)


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (Fields(pixel_values=INPUTS, labels=LABELS), {}),
        (Fields(pixel_values=INPUTS, attention_mask=MASK, label=LABELS), {}),
        (Fields(image=INPUTS, mask=MASK, target=LABELS), {}),
        (
            Fields(seen=INPUTS, mask=MASK, y=LABELS),
            {"forward": lambda net, batch: net(batch["seen"], batch["mask"])},
        ),
        ([((INPUTS[i], MASK[i]), int(LABELS[i])) for i in range(64)], {}),
        ([({"pixel_values": INPUTS[i]}, int(LABELS[i])) for i in range(64)], {}),
        ({"pixel_values": INPUTS, "attention_mask": MASK, "labels": LABELS}, {}),
    ],
)
def test_dictionaries_and_several_inputs(data: Any, options: dict[str, Any]) -> None:
    expected = ask(build_net(Named), (INPUTS, LABELS))
    answer = ask(build_net(Named), data, test_data=data, **options)
    assert answer.evidence["the net"].curve == expected.evidence["the net"].curve
    dense = answer.dense["the net"]
    assert dense.held_out is not None
    # The test data are the training data, of which a fifth is held out.
    assert dense.test == pytest.approx((51 * dense.train + 13 * dense.held_out) / 64)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (Fields(pixel_values=INPUTS), {}, "a batch with id, pixel_values has no labels"),
        (Fields(a=INPUTS, b=MASK, y=LABELS), {}, "takes none of the inputs a, b by name"),
        ((INPUTS[:, :, :3], LABELS), {}, "cannot take inputs of shape [8, 1, 3, 4]"),
        ((INPUTS, LABELS[:9]), {}, "64 training inputs but 9 labels"),
        ((INPUTS[:0], LABELS[:0]), {}, "the training data are empty"),
        ((INPUTS[:1], LABELS[:1]), {}, "one training example: give two or more"),
        ((INPUTS, LABELS * 0 + 3), {}, "all labels are of one class, 3: there is nothing to tell"),
        ((INPUTS, LABELS - 1), {}, "label -1 is not allowed: the net has 4 outputs"),
        ((INPUTS, LABELS + 1), {}, "label 4 is not allowed: the net has 4 outputs"),
        ((INPUTS, LABELS + 1), {}, "yours begin at 1: subtract 1"),
        ((INPUTS, LABELS.float()), {}, "labels of type torch.float32 are not allowed"),
        ((INPUTS, nn.functional.one_hot(LABELS).float()), {}, "one-hot, give labels.argmax(1)"),
        ((INPUTS, nn.functional.one_hot(LABELS)), {}, "if these are one-hot, give the number of"),
        ((INPUTS, INPUTS[:, 0].long()), {}, "maps of labels (segmentation) are not supported"),
        ((INPUTS, np.array([None] * 64)), {}, "labels of type NoneType are not allowed"),
        ((INPUTS * torch.nan, LABELS), {}, "inputs hold NaN"),
        (((INPUTS * 255).byte(), LABELS), {}, "the inputs are integers: give floats as in"),
        ((np.array([["a"]] * 64), LABELS), {}, "inputs of type <U1 are not allowed: numbers"),
        (7, {}, "data of type int are not allowed: a DataLoader, a Dataset"),
        ([1, 2, 3], {}, "is not (inputs, labels)"),
        ([], {}, "the training data are empty"),
        ("nowhere", {}, "nowhere/train is missing"),
        (
            (INPUTS, LABELS),
            {"test_data": (torch.zeros(4, 16), LABELS[:4])},
            "test inputs are of shape (16,), training inputs of (1, 4, 4)",
        ),
        ((INPUTS, LABELS), {"test_data": "nowhere"}, "is a folder, but the training data are not"),
        (
            Fields(pixel_values=INPUTS, y=LABELS),
            {"test_data": Fields(image=INPUTS, y=LABELS)},
            "the test data have no pixel_values",
        ),
        (
            [((INPUTS[i], MASK[i]), int(LABELS[i])) for i in range(64)],
            {"test_data": [((INPUTS[i, :, :3], MASK[i]), int(LABELS[i])) for i in range(64)]},
            "test and training inputs differ in shape",
        ),
    ],
)
def test_data_that_cannot_be_used(data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ThreeRegimeError, match=re.escape(message)) as caught:
        ask(build_net(normed), data, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_label_masks_of_sentences_are_allowed() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.mid = nn.Embedding(9, 8), nn.Linear(8, 8)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, words: Tensor) -> Tensor:
            return self.head(self.mid(self.words(words)).relu())

    words = torch.randint(9, (60, 5), generator=torch.Generator().manual_seed(0))
    tags = words % CLASSES
    tags[:, -1] = -100
    assert ask(build_net(Tagger), (words, tags)).pruned["layers"] == 1
