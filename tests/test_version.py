"""The version is known wherever the package runs."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import threeregime
from threeregime import _version
from threeregime._paths import ROOT


@pytest.fixture
def uninstalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a checkout on the path, which pip does not know."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    _version.version.cache_clear()
    yield
    _version.version.cache_clear()


def test_a_checkout_that_is_not_installed_has_the_version_of_its_project(uninstalled: None) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert threeregime.__version__ == _version.version() == project["version"]


@pytest.mark.parametrize("text", [None, "", "[project]\nversion = 5\n"])
def test_without_any_it_is_unknown(
    text: str | None, uninstalled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.setattr(_version, "ROOT", tmp_path)
    monkeypatch.setattr(_version, "CHECKOUT", True)
    assert _version.version() == "unknown"
    monkeypatch.setattr(_version, "CHECKOUT", False)
    _version.version.cache_clear()
    assert _version.version() == "unknown"
