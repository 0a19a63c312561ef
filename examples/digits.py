"""A net of your own, for trying `threeregime advise`: handwritten digits as a folder of pictures.

``python examples/digits.py`` makes ``digits/`` where it is run: ``digits/data`` with train/CLASS
and test/CLASS below it, and ``digits/epoch_*.pt``, the net's weights after so many epochs. Nothing
is downloaded: the pictures come with scikit-learn.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

CHECKPOINTS = (2, 8, 24)


def build() -> nn.Module:
    """A small convolutional net for pictures of one channel, 8x8."""
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


def main(where: Path) -> None:
    """Write the pictures, train the net and save its weights on the way."""
    digits = load_digits()
    pixels = (digits.images * 15).astype("uint8")
    for number, (picture, label) in enumerate(zip(pixels, digits.target, strict=True)):
        split = "train" if number < 1000 else "test"
        folder = where / "data" / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{number:04}.png")
    # As the command normalises them: by mean and deviation of the training pictures.
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
            torch.save(net.state_dict(), where / f"epoch_{epoch}.pt")


if __name__ == "__main__":
    main(Path("digits"))
