"""Passes and steps of small nets with a library of kernels that checks its accesses.

``python -m tests.helpers.sanitized_kernels LIBRARY`` prints the number of nets that ran.
"""

from __future__ import annotations

import ctypes
import itertools
import sys

import torch

from tests.helpers.small_nets import (
    Drawn,
    Layer,
    Recipe,
    draw_images,
    draw_masks,
    make_fleet,
    pass_once,
    set_masks,
)
from threeregime.kernels import PassPlan, Sgd, pass_plan

SHAPES = [(2, 8, 8), (3, 5, 7), (1, 1, 1), (5, 2, 2), (2, 16, 6), (4,)]
NETS = [
    [Layer("conv", 3, 1, 1, 6), Layer("norm"), Layer("relu"), Layer("conv", 3, 2, 1, 5, True)],
    [Layer("conv", 1, 1, 0, 3), Layer("residual", 3), Layer("norm"), Layer("conv", 5, 1, 2, 7)],
    [Layer("concat", 3, channels=4), Layer("pool", 2), Layer("twice"), Layer("pair", 3, 3, 1, 9)],
    [
        Layer("conv", 3, 3, 2, 1),
        Layer("pool", 2, flag=True),
        Layer("concat", 1, p=1),
        Layer("relu"),
    ],
]


def step(plan: PassPlan, images: torch.Tensor, momentum: bool) -> None:
    """Make a step whose gradients are the outputs."""
    buffers = [torch.zeros_like(p) for p in plan.parameters] if momentum else []
    plan.descend(images, lambda outputs, part: outputs / 100, Sgd(0.01, 0.9, 1e-3), buffers)


def main(path: str) -> None:
    """Run nets of every kind."""
    library = ctypes.CDLL(path)
    pass_plan.load_library = lambda: library  # type: ignore[assignment]
    count = 0
    choices = itertools.product(SHAPES, NETS, (torch.float32, torch.float64))
    for number, (shape, layers, dtype) in enumerate(choices):
        torch.set_num_threads(1 + number % 2)
        recipe = Recipe(shape, layers, ["mean", "whole", "adaptive"][number % 3])
        fleet = make_fleet(lambda recipe=recipe: Drawn(recipe), [1, 9, 20][number // 2 % 3], dtype)  # type: ignore[misc]
        for masked in (False, True):
            if masked:
                set_masks(fleet, draw_masks(fleet, 0.3))
            for batch in (2, 19):
                images = draw_images(fleet, batch, shape)
                pass_once(fleet, images)
                assert fleet.planned
                step(fleet.planned.plan(images.shape[2:], dtype), images, momentum=batch > 2)
            with torch.no_grad(), fleet.mode(training=False):
                fleet.logits(draw_images(fleet, 37, shape))
                fleet.logits(fleet.broadcast(draw_images(fleet, 3, shape)[:, 0]))
            count += 1
    print(count)


if __name__ == "__main__":
    main(sys.argv[1])
