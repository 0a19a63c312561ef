"""What a device is known to have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from threeregime.fleet import device


@pytest.mark.parametrize(
    ("texts", "limit"),
    [([], None), (["max"], None), (["1048576\n", "max\n"], 1 << 20), (["4096", "512"], 512)],
)
def test_free_memory_is_at_most_the_containers(
    texts: list[str], limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"limit-{number}" for number in range(3)]  # the last ones are missing
    for file, text in zip(files, texts, strict=False):
        file.write_text(text)
    monkeypatch.setattr(device, "CONTAINER_LIMITS", files)
    free = device.free_memory("cpu")
    if limit is None:
        assert 1 << 20 < free <= psutil.virtual_memory().total
    else:
        assert free == limit


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, bytearray])
def test_what_a_cpu_without_memory_raises_is_known(allocate: Callable[[int], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(1 << 58)
    assert device.is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("memory")])
def test_other_errors_are_not_about_memory(error: Exception) -> None:
    assert not device.is_out_of_memory(error)
