"""Examples drawn at random from tensors, a PyTorch data set or loader, or a folder of images.

Examples are drawn once and kept in memory, so that every candidate is retrained and measured on the
same ones; random transforms are applied once, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, Subset

from threeregime.data import (
    TEST_FOLDERS,
    FolderSplit,
    TensorSplit,
    as_tensor,
    find_test_folder,
    open_split,
    stream_seed,
)
from threeregime.data.task import EVALUATION_BATCH, IGNORED_TARGET
from threeregime.errors import ThreeRegimeError, first_line

MAX_EXAMPLES = 10_000
"""Default number of examples of a split."""
MAX_BYTES = 2 << 30
"""Memory of a split as floats: of large images fewer examples are drawn."""
LABEL_NAMES = ("labels", "label", "targets", "target", "y", "class", "classes")
"""Names of the labels in examples that are dictionaries."""

Splits = tuple[TensorSplit, TensorSplit | None]
"""Training examples, and test examples if there are any."""
Fields = dict[str, Tensor]


def draw_split(
    data: Any, max_examples: int, seed: int, what: str, names: Sequence[str] = ()
) -> TensorSplit:
    """Draw examples at random, without replacement.

    Args:
        data: (inputs, labels) tensors or arrays, or a Dataset or DataLoader of such pairs, or of
            dictionaries with labels under one of `LABEL_NAMES`. The data set, sampler and collate
            function of a loader are used, but not its batch size. Streams give their first
            examples. A split that is already drawn is returned.
        max_examples: number of examples; fewer if they take more than `MAX_BYTES`.
        seed: of the draw.
        what: "training" or "test", for errors.
        names: names of the classes, for labels that are texts; none: the texts in order.

    Raises:
        ThreeRegimeError: data of another kind, or with unsuitable inputs or labels.
    """
    if isinstance(data, TensorSplit):
        return data
    try:
        pair = _arrays(data)
        if pair is not None:
            fields, truth = pair
            total: int | None = len(truth)
            for inputs in fields.values():
                if len(inputs) != total:
                    raise ThreeRegimeError(
                        f"there are {len(inputs)} {what} inputs but {total} labels"
                    )
            order = _random_order(len(truth), seed)[: min(max_examples, _memory_limit(fields))]
            # Of texts all names are known before the draw.
            labels, names = encode_labels(truth, what, names)
            fields, labels = {n: t[order] for n, t in fields.items()}, labels[order]
        else:
            loader, total = _random_loader(data, seed)
            fields, truth = _first_batches(loader, max_examples)
            labels, names = encode_labels(truth, what, names)
    except ThreeRegimeError:
        raise
    except Exception as error:
        raise ThreeRegimeError(
            f"the {what} data cannot be read as pairs of inputs and labels, all of one shape: "
            f"{first_line(error)}"
        ) from error
    return _make_split(fields, labels, total, what, tuple(names))


def split_pair(data: Any) -> tuple[Any, Any]:
    """Return training and test data, if data hold both by name or as a tuple; else None as test."""
    if isinstance(data, Mapping) and "train" in data:
        return data["train"], next((data[name] for name in TEST_FOLDERS if name in data), None)
    if not (isinstance(data, tuple) and len(data) == 2) or _arrays(data) is not None:
        return data, None
    whole = [
        isinstance(part, torch.utils.data.Dataset | DataLoader)
        or (isinstance(part, tuple | list) and _arrays(tuple(part)) is not None)
        for part in data
    ]
    return data if all(whole) else (data, None)


def _arrays(data: Any) -> tuple[Fields, Any] | None:
    """Return the inputs by name and the labels of data that are arrays, else None."""
    if isinstance(data, Mapping) and not hasattr(data, "features"):  # as of Hugging Face
        inputs, truth = split_fields(data)
        return {name: as_tensor(values) for name, values in inputs.items()}, truth
    if not (isinstance(data, tuple | list) and len(data) == 2):
        return None
    inputs, truth = (_listed(part) for part in data) if isinstance(data, tuple) else data
    if not all(_is_array(part) for part in (inputs, truth)):
        return None
    if not all(len(np.shape(part)) for part in (inputs, truth)):
        return None
    return {"0": as_tensor(inputs)}, truth


def _listed(values: Any) -> Any:
    """Return a list of numbers, texts or arrays as an array; two may be a pair of an example."""
    if not (isinstance(values, list) and len(values) > 2):
        return values
    if all(isinstance(value, Tensor) for value in values):
        return torch.stack(values)
    simple = all(isinstance(v, int | float | str | np.generic | np.ndarray) for v in values)
    return np.array(values) if simple else values


def _is_array(value: Any) -> bool:
    known = isinstance(value, Tensor | np.ndarray)
    return known or hasattr(value, "__array__") or hasattr(value, "toarray")


def split_fields(example: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Split a batch or an example that is a dictionary into inputs by name and labels.

    Values that are no arrays, such as texts, are left out.

    Raises:
        ThreeRegimeError: there are no labels, or no inputs.
    """
    label = next((name for name in LABEL_NAMES if name in example), None)
    inputs = {
        name: value
        for name, value in example.items()
        if name != label and name not in LABEL_NAMES and _is_array(value) and len(np.shape(value))
    }
    if label is None or not inputs:
        lacks = "labels" if label is None else "inputs"
        raise ThreeRegimeError(
            f"a batch with {', '.join(map(str, example))} has no {lacks}: call the labels "
            "'labels', and let inputs be tensors"
        )
    return inputs, example[label]


def encode_labels(values: Any, what: str, names: Sequence[str] = ()) -> tuple[Tensor, list[str]]:
    """Return labels as int64 [n] or [n, positions], and the names of the classes if they are texts.

    Texts are numbered in the order of ``names``, or else in their own sorted order; texts of
    digits are numbers.

    Raises:
        ThreeRegimeError: labels of another type, or a text that is not among the names.
    """
    array = values.detach().cpu() if isinstance(values, Tensor) else np.asarray(values)
    if isinstance(array, np.ndarray) and array.dtype.kind in "OUST":
        flat = array.ravel().tolist()
        texts = [v.decode() if isinstance(v, bytes) else v for v in flat]
        if all(isinstance(value, int | np.integer) for value in texts):
            array = np.array(texts, dtype=np.int64).reshape(array.shape)
        elif not all(isinstance(value, str) for value in texts):
            kind = next(type(v).__name__ for v in texts if not isinstance(v, str))
            raise ThreeRegimeError(f"{what} labels of type {kind} are not allowed: whole numbers")
        elif all(text.strip().isdecimal() for text in texts) and not names:
            array = np.array([int(text) for text in texts]).reshape(array.shape)
        else:
            names = list(names) or sorted(set(texts))
            unknown = sorted(set(texts) - set(names))
            if unknown:
                raise ThreeRegimeError(f"the {what} label {unknown[0]!r} is not in the training")
            numbers = {name: number for number, name in enumerate(names)}
            array = np.array([numbers[text] for text in texts]).reshape(array.shape)
    labels = array if isinstance(array, Tensor) else as_tensor(array)
    if labels.is_floating_point() or labels.is_complex():
        one_hot = labels.dim() == 2 and bool((labels.sum(dim=1) == 1).all())
        advice = (
            "they are one-hot, give labels.argmax(1)"
            if one_hot
            else "give the number of each example's class, a whole one (regression and several "
            "labels of an example are not supported)"
        )
        raise ThreeRegimeError(f"{what} labels of type {labels.dtype} are not allowed: {advice}")
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.long(), list(names)


def _random_order(count: int, seed: int) -> Tensor:
    """Return a permutation: CKA uses the first examples, and data may be sorted by class."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(stream_seed("draw", seed)))


def _memory_limit(fields: Mapping[str, Tensor]) -> int:
    """Return how many examples with such inputs fit into `MAX_BYTES` as floats."""
    return max(1, MAX_BYTES // max(1, sum(4 * t[:1].numel() for t in fields.values())))


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


def _first_batches(loader: DataLoader[Any], max_examples: int) -> tuple[Fields, Any]:
    """Return the inputs by name and the labels of the first examples of a loader."""
    batches: list[Fields] = []
    truths: list[Any] = []
    count = 0
    for batch in loader:
        inputs, truth = _split_batch(batch)
        fields = {name: as_tensor(value) for name, value in inputs.items()}
        for part in fields.values():
            if len(part) != len(truth):
                raise ThreeRegimeError(
                    f"a batch of data has {len(part)} inputs but {len(truth)} labels"
                )
        max_examples = min(max_examples, _memory_limit(fields))
        batches.append({name: part[: max_examples - count] for name, part in fields.items()})
        truths.append(truth[: max_examples - count])
        count += len(truths[-1])
        if count >= max_examples:
            break
    if not batches:
        return {"0": torch.empty(0)}, torch.empty(0, dtype=torch.int64)
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    if all(isinstance(truth, Tensor) for truth in truths):
        return joined, torch.cat(truths)
    return joined, np.concatenate([np.asarray(truth) for truth in truths])


def _split_batch(batch: Any) -> tuple[dict[str, Any], Any]:
    """Split a batch into inputs by name and labels."""
    if isinstance(batch, Mapping):
        return split_fields(batch)
    if not (isinstance(batch, tuple | list) and len(batch) == 2):
        raise ThreeRegimeError(
            "a batch of data is not (inputs, labels): let the data set give pairs, or dictionaries "
            "with 'labels'"
        )
    inputs, truth = batch
    if isinstance(inputs, Mapping):
        return split_fields({**inputs, "labels": truth})
    if isinstance(inputs, tuple | list) and inputs and all(_is_array(part) for part in inputs):
        return {str(number): part for number, part in enumerate(inputs)}, truth
    return {"0": torch.as_tensor(inputs)}, truth


def _make_split(
    fields: Fields, truth: Tensor, total: int | None, what: str, names: tuple[str, ...] = ()
) -> TensorSplit:
    """Return a split of ``total`` available examples, once it is fit for training."""
    if not len(truth):
        raise ThreeRegimeError(f"the {what} data are empty: give some examples")
    if len(truth) == 1:
        raise ThreeRegimeError(f"there is one {what} example: give two or more")
    if truth.dim() not in (1, 2):
        raise ThreeRegimeError(
            f"{what} labels of shape {list(truth.shape)} are not allowed: [examples] or "
            "[examples, positions]; maps of labels (segmentation) are not supported"
        )
    for inputs in fields.values():
        if inputs.is_floating_point() and not inputs.isfinite().all():
            raise ThreeRegimeError(
                f"the {what} inputs hold NaN or infinite values: mend these first"
            )
    known = truth[truth != IGNORED_TARGET].unique()
    if what == "training" and len(known) == 1:
        name = names[int(known)] if names else int(known)
        raise ThreeRegimeError(
            f"all labels are of one class, {name}: there is nothing to tell apart, give examples "
            "of two or more"
        )
    fields = {name: part.detach().cpu() for name, part in fields.items()}
    (first, *more) = fields.values()
    several = fields if more or next(iter(fields)) != "0" else None
    return TensorSplit(first, truth.detach().cpu(), total, names, several)


def load_folder(
    path: Path,
    max_examples: int = MAX_EXAMPLES,
    seed: int = 0,
    grey: bool | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    test: Path | None = None,
) -> Splits:
    """Draw images from PATH/train/CLASS and, if it exists, PATH/test/CLASS (or val, valid).

    Args:
        path: the folder.
        max_examples: number of examples of a split; only these are read.
        seed: of the draw.
        grey: whether images have one channel instead of red, green and blue; None: as the first.
        mean, std: of each channel of pixels in [0, 1], for the normalization; None: those of the
            training images.
        size: height and width to which images are scaled and cropped; None: all have one size.
        test: folder of test images, as CLASS/IMAGE or test/CLASS/IMAGE; None: as above.

    Returns:
        Normalized floats [n, channels, height, width].

    Raises:
        ThreeRegimeError: no PATH/train, a class without images, images of several sizes.
    """
    folder = open_split(path / "train")
    grey = folder.is_grey() if grey is None else grey
    train = _draw_images(folder, max_examples, seed, grey, size, "training")
    test_path = find_test_folder(path) if test is None else find_test_folder(test) or test
    drawn = None
    if test_path is not None:
        test_folder = open_split(test_path, folder.classes)
        drawn = _draw_images(test_folder, max_examples, seed, grey, size, "test")
    pixels = train.inputs.double() / 255
    deviation = pixels.std(dim=(0, 2, 3), correction=0)
    shift = _channel_values(mean, pixels.mean(dim=(0, 2, 3)))
    # A channel of constant value is not scaled.
    scale = _channel_values(std, deviation.where(deviation > 0, 1.0))

    def normalize(split: TensorSplit) -> TensorSplit:
        return replace(split, inputs=((split.inputs / 255) - shift) / scale)

    return normalize(train), None if drawn is None else normalize(drawn)


def _channel_values(values: Sequence[float] | None, default: Tensor) -> Tensor:
    """Return one value per channel as a tensor [channels or 1, 1, 1]."""
    tensor = default if values is None else torch.tensor(values, dtype=torch.float64)
    if len(tensor) not in (1, len(default)):
        raise ThreeRegimeError(
            f"{len(tensor)} means or deviations are not allowed: one, or one of each of "
            f"{len(default)} channels"
        )
    return tensor.float().view(-1, 1, 1)


def _draw_images(
    split: FolderSplit, max_examples: int, seed: int, grey: bool, size: int | None, what: str
) -> TensorSplit:
    """Draw images of a split at random, as uint8."""
    limit = _memory_limit({"": torch.from_numpy(split.read([0], grey, size))})
    order = _random_order(len(split.files), seed)[: min(max_examples, limit)]
    pixels = torch.from_numpy(split.read(order.tolist(), grey, size))
    labels = torch.from_numpy(split.labels)[order]
    return _make_split({"0": pixels}, labels, len(split.files), what, split.classes)


def is_grey(model: Any) -> bool | None:
    """Return whether the first convolution of a net takes images of one channel.

    None if it has no convolution, or one of another number of channels than 1 and 3.
    """
    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    return {1: True, 3: False}.get(first.in_channels) if first is not None else None
