"""Examples drawn at random from tensors, a PyTorch data set or loader, or a folder of images.

Examples are drawn once and kept in memory, so that every candidate is retrained and measured on the
same ones; random transforms are applied once, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset

from threeregime.data import FolderSplit, TensorSplit, check_same_classes, open_split, stream_seed
from threeregime.data.task import EVALUATION_BATCH
from threeregime.errors import ThreeRegimeError, first_line

MAX_EXAMPLES = 10_000
"""Default number of examples of a split."""
MAX_BYTES = 2 << 30
"""Memory of a split as floats: of large images fewer examples are drawn."""


def draw_split(data: Any, max_examples: int, seed: int, what: str) -> TensorSplit:
    """Draw examples at random, without replacement.

    Args:
        data: (inputs, labels) tensors or arrays, or a Dataset or DataLoader of such pairs. The data
            set, sampler and collate function of a loader are used, but not its batch size. Streams
            give their first examples. A split that is already drawn is returned.
        max_examples: number of examples; fewer if they take more than `MAX_BYTES`.
        seed: of the draw.
        what: "training" or "test", for errors.

    Raises:
        ThreeRegimeError: data of another kind, or with unsuitable inputs or labels.
    """
    if isinstance(data, TensorSplit):
        return data
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        inputs, truth = (torch.as_tensor(part) for part in data)
        if inputs.dim() and truth.dim() and len(inputs) != len(truth):
            raise ThreeRegimeError(f"there are {len(inputs)} {what} inputs but {len(truth)} labels")
        order = _random_order(len(inputs), seed)[: min(max_examples, _memory_limit(inputs))]
        return _make_split(inputs[order], truth[order], len(inputs), what)
    try:
        loader, total = _random_loader(data, seed)
        batches = _first_batches(loader, max_examples)
        inputs, truth = (torch.cat(parts) for parts in zip(*batches, strict=True))
    except ThreeRegimeError:
        raise
    except Exception as error:
        raise ThreeRegimeError(
            f"the {what} data cannot be read as pairs of inputs and labels, all of one shape: "
            f"{first_line(error)}"
        ) from error
    return _make_split(inputs[:max_examples], truth[:max_examples], total, what)


def _random_order(count: int, seed: int) -> Tensor:
    """Return a permutation: CKA uses the first examples, and data may be sorted by class."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed("draw", seed)))


def _memory_limit(inputs: Tensor) -> int:
    """Return how many such inputs fit into `MAX_BYTES` as floats."""
    return max(1, MAX_BYTES // max(1, 4 * inputs[:1].numel()))


def _random_loader(data: Any, seed: int) -> tuple[DataLoader[Any], int | None]:
    """Return a loader of the data in random order, and the number of examples if it is known."""
    options: dict[str, Any] = {}
    indices: Sequence[int] | None = None
    if isinstance(data, DataLoader):
        options = {"collate_fn": data.collate_fn, "num_workers": data.num_workers}
        if isinstance(data.dataset, IterableDataset) or data.batch_size is None:
            return data, None
        complete = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
        if not isinstance(data.sampler, complete):
            # Another sampler may leave examples out, or repeat some.
            indices = sorted({int(index) for index in data.sampler})
        data = data.dataset
    if isinstance(data, IterableDataset):
        return DataLoader(data, batch_size=EVALUATION_BATCH), None
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")) or isinstance(data, str):
        raise ThreeRegimeError(
            f"data of type {type(data).__name__} are not allowed: a DataLoader, a Dataset, or "
            "(inputs, labels) as two tensors"
        )
    indices = range(len(data)) if indices is None else indices
    order = [indices[position] for position in _random_order(len(indices), seed).tolist()]
    subset: Subset[Any] = Subset(data, order)
    return DataLoader(subset, batch_size=EVALUATION_BATCH, **options), len(indices)


def _first_batches(loader: DataLoader[Any], max_examples: int) -> list[tuple[Tensor, Tensor]]:
    """Return the batches of a loader until they hold enough examples."""
    batches: list[tuple[Tensor, Tensor]] = []
    count = 0
    for batch in loader:
        if not (isinstance(batch, tuple | list) and len(batch) == 2):
            raise ThreeRegimeError(
                "a batch of data is not (inputs, labels): let the data set give pairs"
            )
        inputs, truth = (torch.as_tensor(part) for part in batch)
        if len(inputs) != len(truth):
            raise ThreeRegimeError(
                f"a batch of data has {len(inputs)} inputs but {len(truth)} labels"
            )
        max_examples = min(max_examples, _memory_limit(inputs))
        batches.append((inputs[: max_examples - count], truth[: max_examples - count]))
        count += len(batches[-1][0])
        if count >= max_examples:
            break
    return batches or [(torch.empty(0), torch.empty(0, dtype=torch.int64))]


def _make_split(inputs: Tensor, truth: Tensor, total: int | None, what: str) -> TensorSplit:
    """Return a split of ``total`` available examples, once it is fit for training."""
    if not len(inputs):
        raise ThreeRegimeError(f"the {what} data are empty: give some examples")
    if len(inputs) == 1:
        raise ThreeRegimeError(f"there is one {what} example: give two or more")
    if truth.is_floating_point() or truth.is_complex():
        raise ThreeRegimeError(
            f"{what} labels of type {truth.dtype} are not allowed: the number of each class, a "
            "whole one"
        )
    if truth.dim() not in (1, 2):
        raise ThreeRegimeError(
            f"{what} labels of shape {list(truth.shape)} are not allowed: [examples] or "
            "[examples, places]"
        )
    if inputs.is_floating_point() and not inputs.isfinite().all():
        raise ThreeRegimeError(f"the {what} inputs hold NaN or infinite values: mend these first")
    return TensorSplit(inputs.detach().cpu(), truth.detach().cpu().long(), total)


Splits = tuple[TensorSplit, TensorSplit | None]
"""Training examples, and test examples if there are any."""


def load_folder(
    path: Path,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
    grey: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Splits:
    """Draw images of one size from PATH/train/CLASS and, if it exists, PATH/test/CLASS.

    Args:
        path: the folder.
        max_examples: number of examples of a split; only these are read.
        seed: of the draw.
        grey: whether images have one channel instead of red, green and blue.
        mean, std: of each channel of pixels in [0, 1], for the normalization; None: those of the
            training images.

    Returns:
        Normalized floats [n, channels, height, width].

    Raises:
        ThreeRegimeError: no PATH/train, a class without images, images of several sizes.
    """
    folder = open_split(path / "train")
    train = _draw_images(folder, max_examples, seed, grey)
    test = None
    if (path / "test").is_dir():
        test_folder = open_split(path / "test")
        check_same_classes(path, folder, test_folder)
        test = _draw_images(test_folder, max_examples, seed, grey)
    pixels = train.inputs.double() / 255
    deviation = pixels.std(dim=(0, 2, 3), correction=0)
    shift = _channel_values(mean, pixels.mean(dim=(0, 2, 3)))
    # A channel of constant value is not scaled.
    scale = _channel_values(std, deviation.where(deviation > 0, 1.0))

    def normalize(split: TensorSplit) -> TensorSplit:
        return replace(split, inputs=((split.inputs / 255) - shift) / scale)

    return normalize(train), None if test is None else normalize(test)


def _channel_values(values: Sequence[float] | None, default: Tensor) -> Tensor:
    """Return one value per channel as a tensor [channels or 1, 1, 1]."""
    tensor = default if values is None else torch.tensor(values, dtype=torch.float64)
    if len(tensor) not in (1, len(default)):
        raise ThreeRegimeError(
            f"{len(tensor)} means or deviations are not allowed: one, or one of each of "
            f"{len(default)} channels"
        )
    return tensor.float().view(-1, 1, 1)


def _draw_images(split: FolderSplit, max_examples: int, seed: int, grey: bool) -> TensorSplit:
    """Draw images of a split at random, as uint8."""
    limit = _memory_limit(torch.from_numpy(split.read([0], grey)))
    order = _random_order(len(split.files), seed)[: min(max_examples, limit)]
    pixels = torch.from_numpy(split.read(order.tolist(), grey))
    what = split.path.name.replace("train", "training")
    return _make_split(pixels, torch.from_numpy(split.labels)[order], len(split.files), what)
