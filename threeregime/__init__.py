"""The executable companion to A Three-regime Model of Network Pruning (Zhou et al., ICML 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from threeregime.advice.advice import Advice
    from threeregime.advice.advise import advise

    __version__: str

__all__ = ["Advice", "__version__", "advise"]


def __getattr__(name: str) -> Any:
    """What the package offers by itself, imported when it is asked for: PyTorch takes seconds."""
    if name == "advise":
        from threeregime.advice.advise import advise

        return advise
    if name == "Advice":
        from threeregime.advice.advice import Advice

        return Advice
    if name == "__version__":
        from importlib.metadata import version

        return version(__name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
