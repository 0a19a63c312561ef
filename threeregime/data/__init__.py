"""Datasets as tasks: examples of both splits, batches, losses and errors."""

from threeregime.data.folders import (
    TEST_FOLDERS,
    FolderSplit,
    check_same_classes,
    find_test_folder,
    open_split,
)
from threeregime.data.images import Dataset, ImageBatches, plain_images
from threeregime.data.registry import (
    DATA_DIR,
    DATASETS,
    ImageSource,
    chance_error,
    dataset_from_arrays,
    load_images,
    load_task,
    task_size,
)
from threeregime.data.task import IGNORED_TARGET, Batches, Task, stream_seed
from threeregime.data.tensors import TensorSplit, TensorTask, as_tensor, cast_inputs
from threeregime.data.translation import TRANSLATIONS, Translation
from threeregime.data.vocabulary import PAD

__all__ = [
    "DATASETS",
    "DATA_DIR",
    "IGNORED_TARGET",
    "PAD",
    "TEST_FOLDERS",
    "TRANSLATIONS",
    "Batches",
    "Dataset",
    "FolderSplit",
    "ImageBatches",
    "ImageSource",
    "Task",
    "TensorSplit",
    "TensorTask",
    "Translation",
    "as_tensor",
    "cast_inputs",
    "chance_error",
    "check_same_classes",
    "dataset_from_arrays",
    "find_test_folder",
    "load_images",
    "load_task",
    "open_split",
    "plain_images",
    "stream_seed",
    "task_size",
]
