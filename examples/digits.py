"""A small net and a folder of handwritten digits, to try `threeregime advise` with.

``python examples/digits.py`` writes ``digits/data`` with train/CLASS and test/CLASS, and
``digits/epoch_*.pt``, the net's weights during training. Nothing is downloaded: the images come
with scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

CHECKPOINTS = (2, 8, 24)


def build() -> nn.Module:
    """Return a small convolutional net for images of one channel, 8x8."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def main(root: Path) -> None:
    """Write the images, train the net and save its weights."""
    digits = load_digits()
    pixels = (digits.images * 15).astype("uint8")
    for number, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        split = "train" if number < 1000 else "test"
        folder = root / "data" / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:04}.png")
    # Normalized as by the command, with mean and deviation of the training images.
    inputs = torch.from_numpy(pixels[:1000]).float()[:, None] / 255
    inputs = (inputs - inputs.mean()) / inputs.std()
    labels = torch.from_numpy(digits.target[:1000])
    torch.manual_seed(0)
    net = build()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for epoch in range(1, max(CHECKPOINTS) + 1):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), labels[batch]).backward()
            optimizer.step()
        if epoch in CHECKPOINTS:
            torch.save(net.state_dict(), root / f"epoch_{epoch}.pt")


if __name__ == "__main__":
    main(Path("digits"))
