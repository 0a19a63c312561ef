"""Training a fleet: SGD with momentum, step by step, resumable at every epoch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from threeregime.data import Dataset
from threeregime.fleet import Fleet, State
from threeregime.loader import Loader, plain_images
from threeregime.protocol import Training
from threeregime.pruning import Masks

EVALUATION_BATCH = 256


class Run:
    """A fleet in training.

    Args:
        fleet: the nets.
        loader: augmented batches, one stream a member.
        training: the schedule.
        compiled: compile the forward and backward pass; worth its minute only for long runs.
    """

    def __init__(
        self,
        fleet: Fleet,
        loader: Loader,
        training: Training,
        compiled: bool = False,
    ) -> None:
        self.fleet, self.loader, self.training = fleet, loader, training
        self.epoch = 0
        self.parameters = dict(fleet.module.named_parameters())
        # Every step is elementwise, so the stock optimizer over stacked weights is the stock
        # optimizer of each net.
        self.optimizer = torch.optim.SGD(
            self.parameters.values(),
            lr=training.lr,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        self.masked: list[tuple[Tensor, Tensor]] = []
        self.loss = torch.compile(self._loss, dynamic=False) if compiled else self._loss

    @torch.no_grad()
    def prune(self, masks: Masks) -> None:
        """Set the weights outside the masks ([M, ...] by name) to zero; they stay exactly zero."""
        for name, mask in masks.items():
            weight = self.parameters[name]
            # As a factor that lies in memory as the weights do, whatever the layout.
            factor = torch.empty_like(weight)
            self.fleet.by_member(factor).copy_(mask)
            weight.mul_(factor)
            self.masked.append((weight, factor))

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Sum over members of each one's mean cross-entropy: gradients as if each were alone."""
        logits = self.fleet.logits(images)
        total = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
        return total / labels.shape[1]

    def step(self, images: Tensor, labels: Tensor) -> None:
        """One SGD step of every member on its own batch (shapes as :meth:`Loader.batch`)."""
        self.optimizer.zero_grad()
        self.loss(images, labels).backward()
        for weight, mask in self.masked:
            # A masked gradient keeps momentum and weight at zero: decay of zero is zero too.
            assert weight.grad is not None
            weight.grad.mul_(mask)
        self.optimizer.step()

    def run_epoch(self) -> None:
        """Train every member for one epoch."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.training.rate(self.epoch)
        self.fleet.module.train()
        draws = self.loader.draw(self.epoch)
        for step in range(self.loader.steps):
            self.step(*self.loader.batch(draws, step, self.fleet.dtype))
        self.epoch += 1

    def state(self) -> State:
        """Everything that the next epoch depends on: net, momentum and epoch."""
        momentum = {
            f"momentum/{name}": self.fleet.by_member(
                self.optimizer.state[p]["momentum_buffer"]
            ).clone(memory_format=torch.contiguous_format)
            for name, p in self.parameters.items()
            if "momentum_buffer" in self.optimizer.state[p]
        }
        return {**self.fleet.state(), **momentum, "epoch": torch.tensor(self.epoch)}

    def load(self, state: State) -> None:
        """Go back to a state that :meth:`state` returned."""
        self.fleet.load(state)
        self.epoch = int(state["epoch"])
        for name, p in self.parameters.items():
            saved = state.get(f"momentum/{name}")
            if saved is not None:
                buffer = torch.empty_like(p, requires_grad=False)
                self.fleet.by_member(buffer).copy_(saved)
                self.optimizer.state[p]["momentum_buffer"] = buffer


@torch.no_grad()
def errors(fleet: Fleet, data: Dataset, train: bool) -> Tensor:
    """Error of every member on a whole split, un-augmented, in evaluation mode: [M], NaN if broken.

    A member with a parameter or statistic that is not finite has no error.
    """
    images = data.train_images if train else data.test_images
    labels = data.train_labels if train else data.test_labels
    fleet.module.eval()
    wrong = torch.zeros(fleet.members, dtype=torch.float64, device=fleet.device)
    for pixels, truth in zip(
        images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True
    ):
        logits = fleet.logits(plain_images(data, pixels, fleet.dtype))
        wrong += (logits.argmax(dim=-1) != truth).sum(dim=-1)
    return (wrong / len(labels)).masked_fill(~fleet.finite(), torch.nan)


@torch.no_grad()
def outputs(fleet: Fleet, data: Dataset, samples: int) -> Tensor:
    """Logits of every member for the first training images: [M, min(samples, count), classes]."""
    fleet.module.eval()
    parts = data.train_images[:samples].split(EVALUATION_BATCH)
    logits = [fleet.logits(plain_images(data, pixels, fleet.dtype)) for pixels in parts]
    return torch.cat(logits, dim=1)
