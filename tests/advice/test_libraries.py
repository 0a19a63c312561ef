"""Nets of torchvision and timm, with random weights, on small pictures."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from tests.advice.examples import CLASSES, ask
from tests.helpers.cases import with_examples
from threeregime.advice import Advice
from threeregime.errors import ThreeRegimeError

EXAMPLES = ("squeezenet1_1", "test_vit")
"""Nets that every run of the tests tries."""
TORCHVISION = (
    ("mobilenet_v2", 32),
    ("densenet121", 32),
    ("efficientnet_b0", 32),
    ("googlenet", 32),
    ("mnasnet0_5", 32),
    ("mobilenet_v3_small", 32),
    ("regnet_y_400mf", 32),
    ("resnet18", 32),
    ("shufflenet_v2_x0_5", 32),
    ("squeezenet1_1", 64),
)
TIMM = (
    ("convnext_atto", 32),
    ("deit_tiny_patch16_224", 64),
    ("dla46_c", 32),
    ("ghostnet_050", 32),
    ("lcnet_050", 32),
    ("mixer_s32_224", 64),
    ("mobilenetv4_conv_small_050", 32),
    ("pvt_v2_b0", 32),
    ("resnet10t", 32),
    ("test_vit", 160),
)


def advise_on_pictures(net: Any, size: int) -> Advice:
    """Return advice on a net, after one epoch on 64 pictures of noise."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn((64, 3, size, size), generator=generator)
    return ask(net, (pictures, torch.arange(64) % CLASSES), density=0.1, epochs=1)


def check(net: Any, size: int) -> None:
    """There is an answer, honest about a net that was never trained, or one line."""
    try:
        answer = advise_on_pictures(net, size)
    except ThreeRegimeError as error:  # its copies have no LMC or CKA
        line = str(error)
    else:
        assert answer.open
        assert answer.pruned["layers"] > 5
        assert answer.pruned["classifier"]
        line = next(finding.text for finding in answer.findings if finding.blocks)
    assert re.search(r"no better than chance|diverged in retraining|same whatever the input", line)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), with_examples(TORCHVISION, EXAMPLES))
def test_nets_of_torchvision(name: str, size: int) -> None:
    from torchvision import models

    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    check(models.get_model(name, num_classes=CLASSES, **options), size)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), with_examples(TIMM, EXAMPLES))
def test_nets_of_timm(name: str, size: int) -> None:
    import timm

    # Nets of one size of pictures are named by it; they can be built for smaller ones.
    options: dict[str, Any] = {"img_size": size} if name.endswith("_224") else {}
    check(timm.create_model(name, num_classes=CLASSES, **options), size)
