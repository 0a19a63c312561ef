"""Constants of the protocols as MyST substitutions, so that pages do not repeat them.

On a page, ``{{ clutter.dense.lr }}`` is the learning rate of the scale ``clutter``. A scale has all
fields of :class:`threeregime.protocol.Protocol`, and numbers that follow from them (see
:func:`scale`).
"""

from __future__ import annotations

import tomllib
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

from threeregime.experiments import catalogue
from threeregime.metrics import hessian
from threeregime.models import registry
from threeregime.pruning import quantization

# Training images, channels and classes of the data sets. The book is built without CIFAR-10.
SIZES = {"cifar10": (50_000, 3, 10), "digits-clutter": (1000, 3, 10)}


def scale(name: str) -> dict[str, Any]:
    """Return all constants of a scale, with numbers as the text prints them."""
    protocol = catalogue.load_scale(name)
    images, channels, classes = SIZES[protocol.data.name]
    net = registry.NETS[protocol.net.name].build(
        protocol.net.depth, protocol.net.width, channels, classes
    )
    steps = images // protocol.dense.batch_size
    iterations = steps * protocol.dense.epochs
    decay = protocol.dense.lr * protocol.dense.weight_decay
    paper_decay = catalogue.load_scale("paper").dense.weight_decay
    numbers = {
        **protocol.to_dict(),
        "images": images,
        "parameters": sum(p.numel() for p in net.parameters()),
        "conv_weights": sum(p.numel() for p in net.parameters() if p.dim() == 4),
        "steps": steps,
        "iterations": iterations,
        # Learning rate x weight decay x iterations: see the weight decay on
        # the protocol page.
        "shrinkage": f"{decay * iterations:.2f}",
        "shrinkage_at_paper_decay": f"{protocol.dense.lr * paper_decay * iterations:.2f}",
    }
    return {key: _printed(value) for key, value in numbers.items()}


def experiment(name: str, at: str) -> dict[str, Any]:
    """Return axes and seeds of an experiment at a scale, with densities in percent."""
    chosen = catalogue.load_experiment(name, at)
    factor = 100 if chosen.load == "density" else 1
    loads = [f"{factor * load:g}" for load in chosen.loads]
    return {
        "temperatures": ", ".join(f"{t:g}" for t in chosen.temperatures),
        "spacing": f"{chosen.temperatures[1] - chosen.temperatures[0]:g}",
        "loads": ", ".join(loads),
        "loads_from": loads[0],
        "loads_to": loads[-1],
        "dense_seeds": len(chosen.dense_seeds),
        "retrain_seeds": len(chosen.retrain_seeds),
        "nets": f"{len(chosen.units()) * len(chosen.retrain_seeds):,}",
    }


def scale_list() -> list[str]:
    """Return the scales of Figure 2 with their descriptions, as a list in Markdown."""
    files = catalogue.PROTOCOLS / "scales"
    return [
        f"* `{name}`: {tomllib.loads((files / f'{name}.toml').read_text())['description']}"
        for name in catalogue.list_scales("figure_02")
    ]


def _printed(value: Any) -> Any:
    """Return values as text: thousands separated, lists without brackets, small numbers as 1e-4."""
    if isinstance(value, dict):
        return {key: _printed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return " and ".join(map(str, value))
    if isinstance(value, float) and 0 < value < 0.01:
        mantissa, exponent = f"{value:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if isinstance(value, int) and not isinstance(value, bool) and value >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else value


def add_substitutions(app: Sphinx, config: Config) -> None:
    """Add the constants to MyST's substitutions."""
    config.myst_substitutions = {
        **(config.myst_substitutions or {}),
        "paper": scale("paper"),
        "clutter": scale("clutter"),
        "hessian_samples": hessian.SAMPLES,
        "clipping_points": len(quantization.CLIPPING),
        "scales": "\n".join(scale_list()),
        "figure_02": {at: experiment("figure_02", at) for at in ("paper", "clutter")},
        "quantization": {at: experiment("quantization", at) for at in ("paper", "clutter")},
        "weight_decay": {
            **experiment("weight_decay", "clutter"),
            "variants": ", ".join(catalogue.load_experiment("weight_decay", "clutter").variants),
        },
    }


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx, before MyST reads its configuration."""
    app.connect("config-inited", add_substitutions)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
