"""Examples drawn at random from tensors, a PyTorch data set or loader, or a folder of images.

What is drawn once is kept in memory, so that every candidate is retrained and measured on the same
examples. Transforms that are random are drawn once, too.
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
from threeregime.errors import ThreeRegimeError

MAX_EXAMPLES = 10_000
"""Examples of a split that are kept by default."""
MAX_BYTES = 2 << 30
"""What they may take in memory, as floats: large pictures are fewer."""


def draw_split(data: Any, most: int, seed: int, what: str) -> TensorSplit:
    """Draw examples at random, without repetition.

    Args:
        data: (inputs, labels) tensors or arrays, or a Dataset or DataLoader of such pairs. Of a
            loader its data set, sampler and collate function are used, not its batch size. Of data
            that come as a stream, the first are taken. What was drawn already is returned.
        most: examples at most; fewer where they would take more than `MOST_BYTES`.
        seed: of the draw.
        what: "training" or "test", for messages.

    Raises:
        ThreeRegimeError: data of another kind, that cannot be read, or are unfit to learn from.
    """
    if isinstance(data, TensorSplit):
        return data
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        inputs, truth = (torch.as_tensor(part) for part in data)
        if inputs.dim() and truth.dim() and len(inputs) != len(truth):
            raise ThreeRegimeError(f"there are {len(inputs)} {what} inputs but {len(truth)} labels")
        order = _order(len(inputs), seed)[: min(most, _room(inputs))]
        return _checked(inputs[order], truth[order], len(inputs), what)
    try:
        loader, found = _in_random_order(data, seed)
        batches = _first(loader, most)
        inputs, truth = (torch.cat([batch[side] for batch in batches]) for side in (0, 1))
    except ThreeRegimeError:
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise ThreeRegimeError(
            f"the {what} data cannot be read as pairs of inputs and labels, all of one shape: "
            f"{reason.splitlines()[0]}"
        ) from error
    return _checked(inputs[:most], truth[:most], found, what)


def _order(count: int, seed: int) -> Tensor:
    """All of so many examples, mixed: CKA takes the first, and data may come class by class."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed("draw", seed)))


def _room(inputs: Tensor) -> int:
    """How many of such inputs fit in `MOST_BYTES`; bytes of pixels become floats."""
    each = 4 * inputs[:1].numel()
    return max(1, MAX_BYTES // max(1, each))


def _in_random_order(data: Any, seed: int) -> tuple[DataLoader[Any], int | None]:
    """A loader that goes through data in random order, and their number if it is known."""
    options: dict[str, Any] = {}
    indices: Sequence[int] | None = None
    if isinstance(data, DataLoader):
        options = {"collate_fn": data.collate_fn, "num_workers": data.num_workers}
        if isinstance(data.dataset, IterableDataset) or data.batch_size is None:
            return data, None
        kinds = (torch.utils.data.SequentialSampler, torch.utils.data.RandomSampler)
        if not isinstance(data.sampler, kinds):
            # It may leave examples out, or draw some several times.
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
    chosen = [indices[place] for place in _order(len(indices), seed).tolist()]
    subset: Subset[Any] = Subset(data, chosen)
    return DataLoader(subset, batch_size=EVALUATION_BATCH, **options), len(indices)


def _first(loader: DataLoader[Any], most: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of a loader until there are enough examples."""
    batches: list[tuple[Tensor, Tensor]] = []
    count, room = 0, most
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
        room = min(room, _room(inputs))
        batches.append((inputs[: room - count], truth[: room - count]))
        count += len(batches[-1][0])
        if count >= room:
            break
    return batches or [(torch.empty(0), torch.empty(0, dtype=torch.int64))]


def _checked(inputs: Tensor, truth: Tensor, found: int | None, what: str) -> TensorSplit:
    """A split that nets can learn from."""
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
    return TensorSplit(inputs.detach().cpu(), truth.detach().cpu().long(), found)


Sides = tuple[TensorSplit, TensorSplit | None]


def load_folder(
    path: Path,
    most: int = MAX_EXAMPLES,
    seed: int = 0,
    grey: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Sides:
    """Images of one size below PATH/train/CLASS and, if it is there, PATH/test/CLASS.

    Only those that are kept are read.

    Args:
        path: the folder.
        most: examples of a split at most.
        seed: of the draw.
        grey: as one channel, else as red, green and blue.
        mean: taken from each channel of pixels in [0, 1]; None: measured on those drawn to train.
        std: what each channel is divided by; None: as ``mean``.

    Returns:
        Training and test images, normalised floats [n, channels, height, width]; None where there
        is no test folder.

    Raises:
        ThreeRegimeError: no PATH/train, a class without images, images of several sizes.
    """
    classes = open_split(path / "train")
    train = _images(classes, most, seed, grey)
    test = None
    if (path / "test").is_dir():
        test_classes = open_split(path / "test")
        check_same_classes(path, classes, test_classes)
        test = _images(test_classes, most, seed, grey)
    pixels = train.inputs.double() / 255
    # A channel of one value has no scale.
    measured = pixels.std(dim=(0, 2, 3), correction=0)
    own = (pixels.mean(dim=(0, 2, 3)), measured.where(measured > 0, 1.0))
    shift, scale = (
        _by_channel(given, fallback) for given, fallback in zip((mean, std), own, strict=True)
    )

    def normalised(split: TensorSplit) -> TensorSplit:
        return replace(split, inputs=((split.inputs / 255) - shift) / scale)

    return normalised(train), None if test is None else normalised(test)


def _by_channel(given: Sequence[float] | None, measured: Tensor) -> Tensor:
    """Numbers of each channel as a tensor [channels, 1, 1]."""
    values = measured if given is None else torch.tensor(given, dtype=torch.float64)
    if len(values) not in (1, len(measured)):
        raise ThreeRegimeError(
            f"{len(values)} means or deviations are not allowed: one, or one of each of "
            f"{len(measured)} channels"
        )
    return values.float().view(-1, 1, 1)


def _images(split: FolderSplit, most: int, seed: int, grey: bool) -> TensorSplit:
    """Pixels of a split, uint8, drawn at random."""
    first = torch.from_numpy(split.read([0], grey))
    order = _order(len(split.files), seed)[: min(most, _room(first))]
    pixels = torch.from_numpy(split.read(order.tolist(), grey))
    what = split.path.name.replace("train", "training")
    return _checked(pixels, torch.from_numpy(split.labels)[order], len(split.files), what)
