"""Tasks of tensors: batches, the user's loss, and arrays of every kind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from threeregime.data.task import IGNORED_TARGET
from threeregime.data.tensors import TensorSplit, TensorTask, as_tensor
from threeregime.errors import ThreeRegimeError


def make_task(count: int = 257, test: int = 0, **options: object) -> TensorTask:
    inputs, targets = torch.arange(count, dtype=torch.float32)[:, None], torch.arange(count) % 3
    train = TensorSplit(inputs, targets, count)
    held_out = TensorSplit(inputs[:test], targets[:test], test) if test else None
    return TensorTask("made", train, held_out, 3, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "sizes"), [(2, [2]), (256, [256]), (257, [129, 128])])
def test_no_batch_has_a_single_example(count: int, sizes: list[int]) -> None:
    batches = list(make_task(count).evaluation_batches(True, torch.float32))
    assert [len(inputs) for inputs, _ in batches] == sizes
    assert torch.equal(
        torch.cat([inputs for inputs, _ in batches])[:, 0], torch.arange(count).float()
    )
    (first,) = make_task(count).evaluation_batches(True, torch.float32, first=2)
    assert first[1].tolist() == [0, 1]


def test_evaluated_examples_are_reported() -> None:
    seen: list[int] = []
    task = make_task(300, test=20, report=seen.append)
    list(task.evaluation_batches(True, torch.float32))
    list(task.evaluation_batches(False, torch.float32))
    list(task.input_batches(100, torch.float32))
    assert seen == [150, 150, 20, 100, 100, 100]


def test_the_loss_is_the_users() -> None:
    def distance(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs[:, 0] - targets).abs().mean()

    outputs = torch.tensor([[[1.0, 0, 0], [3, 0, 0]], [[0, 0, 0], [0, 0, 0]]])
    targets = torch.tensor([[1, 1], [2, 0]])
    assert make_task(criterion=distance).loss(outputs, targets, 0.0) == 1 + 1
    plain = make_task().loss(outputs, targets, 0.0)
    expected = torch.nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()) * 2
    assert plain == pytest.approx(float(expected))


def test_labels_from_one_are_named() -> None:
    split = TensorSplit(torch.zeros(3, 1), torch.tensor([1, 2, 3]), 3)
    with pytest.raises(ThreeRegimeError, match="labels 0 to 2; yours begin at 1: subtract 1"):
        TensorTask("made", split, None, 3)
    split = TensorSplit(torch.zeros(1, 2), torch.tensor([[IGNORED_TARGET, 7]]), 3)
    with pytest.raises(ThreeRegimeError, match=r"label 7 is not allowed: .* labels 0 to 2$"):
        TensorTask("made", split, None, 3)


def test_arrays_become_tensors_without_warning() -> None:
    array = np.arange(6, dtype=">i4").reshape(2, 3)[:, ::-1]
    array.setflags(write=False)
    assert as_tensor(array).tolist() == array.tolist()
    assert as_tensor(np.float32(3)).shape == ()
    with torch.inference_mode():
        tensor = torch.ones(2)
    assert not as_tensor(tensor).is_inference()
    with pytest.raises(ThreeRegimeError, match="inputs of type <U1 are not allowed"):
        as_tensor(np.array(["a"]))
