"""What a device is known to have."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

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
