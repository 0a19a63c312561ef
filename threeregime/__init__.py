"""The executable companion to A Three-regime Model of Network Pruning (Zhou et al., ICML 2023)."""

from __future__ import annotations

__version__ = "0.1.0"
