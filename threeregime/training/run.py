"""A fleet in training, step by step, resumable at every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from threeregime.data import Batches
from threeregime.fleet import PRECISIONS, CudaGraphStep, Engine, Fleet, State
from threeregime.protocol import Dense, Training
from threeregime.pruning import Masks, Quantizer
from threeregime.training.optimizers import (
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    sam_gradients,
)

PLAINEST = Engine()


class TrainingRun:
    """A fleet in training.

    Args:
        fleet: the nets.
        loader: batches, one stream a member.
        recipe: optimizer and schedule.
        engine: precision of a step's products, and whether it is recorded as a CUDA graph; the
            fleet's backend, and whether it is compiled, are the fleet's own.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs of the whole run; more than the recipe's where it gives steps.
        advance: function of a step's draws that makes the step.
    """

    def __init__(
        self, fleet: Fleet, loader: Batches, recipe: Training, engine: Engine = PLAINEST
    ) -> None:
        self.fleet, self.loader, self.recipe = fleet, loader, recipe
        self.epoch = 0
        self.parameters = dict(fleet.module.named_parameters())
        # A tensor, so that a recorded step reads it anew each time; CUDA's kernel wants 32 bits.
        exact = torch.float32 if fleet.device.type == "cuda" else torch.float64
        self._rate = recipe.lr
        self.rate = torch.tensor(recipe.lr, dtype=exact, device=fleet.device)
        self.optimizer = make_optimizer(
            recipe, self.parameters.values(), self.rate, recorded=engine.graphed
        )
        self.epochs = math.ceil(recipe.steps(loader.steps) / loader.steps)
        self.masked: list[tuple[Tensor, Tensor]] = []
        self.quantizer: Quantizer | None = None
        self.low_precision = PRECISIONS[engine.precision]
        self.graphed = engine.graphed
        self.advance: Callable[..., None] = self.step
        self._forget_recording()

    def _forget_recording(self) -> None:
        """Record the step anew: a recorded one works on the tensors of its time."""
        if self.graphed:
            self.advance = CudaGraphStep(self.step, before=self.optimizer.zero_grad)

    @torch.no_grad()
    def prune(self, masks: Masks) -> None:
        """Set the weights outside the masks ([M, ...] by name) to zero; they stay exactly zero."""
        for name, mask in masks.items():
            weight = self.parameters[name]
            # A factor that lies in memory as the weights do, whatever the layout.
            factor = torch.empty_like(weight)
            self.fleet.by_member(factor).copy_(mask)
            weight.mul_(factor)
            self.masked.append((weight, factor))

    def quantize(self, bits: Sequence[int | None]) -> None:
        """Train with quantized weights from now on.

        The fleet keeps the latent weights, which are trained and saved.

        Args:
            bits: bits of a weight, one entry a member; None leaves this member as it is.
        """
        if any(own is not None for own in bits):
            self.quantizer = Quantizer(self.fleet, bits)

    def compressed(self) -> AbstractContextManager[None]:
        """Return a context in which the fleet holds the nets that are evaluated: quantized ones."""
        return self.quantizer.applied() if self.quantizer else nullcontext()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over members of their mean cross-entropy.

        The gradient of each member is then as if it were alone.

        Args:
            inputs: [batch, M, ...].
            targets: [M, batch, ...].
        """
        # Weights are used once a step: keeping their 16-bit copies would gain nothing.
        with torch.autocast(
            self.fleet.device.type,
            self.low_precision,
            enabled=self.low_precision is not None,
            cache_enabled=False,
        ):
            logits = self.fleet.logits(inputs)
        logits = logits.to(self.fleet.dtype)
        return self.loader.task.loss(logits, targets, self.recipe.smoothing)

    def step(self, *draws: Tensor) -> None:
        """Make one step of every member on its own batch.

        Args:
            draws: of this step, from :meth:`threeregime.data.Batches.step_draws`.
        """
        batch = self.loader.batch(draws, self.fleet.dtype)

        def backward() -> None:
            self.optimizer.zero_grad()
            self.loss(*batch).backward()

        with self.compressed():
            if isinstance(self.recipe, Dense) and self.recipe.rho:
                sam_gradients(self.fleet, self.recipe.rho, backward)
            else:
                backward()
        if self.masked:
            # A masked gradient keeps weight and optimizer at zero: decay of zero is zero too.
            gradients = [weight.grad for weight, _ in self.masked if weight.grad is not None]
            torch._foreach_mul_(gradients, [mask for _, mask in self.masked])
        self.optimizer.step()

    def run_epoch(self) -> None:
        """Train every member for one epoch. On a GPU nothing waits for it but its end."""
        draws, each = self.loader.draw(self.epoch), self.loader.steps
        before = self.epoch * each
        with self.fleet.mode(training=True):
            for step in range(min(each, self.recipe.steps(each) - before)):
                rate = self.recipe.rate(before + step, each)
                if step == 0 or rate != self._rate:
                    self._rate = rate
                    self.rate.fill_(rate)
                self.advance(*self.loader.step_draws(draws, step))
        self.epoch += 1
        if self.fleet.device.type == "cuda":
            # The steps are queued: there is time to draw the next epoch's batches.
            self.loader.draw(self.epoch)
            torch.cuda.synchronize(self.fleet.device)

    def state(self) -> State:
        """Return all that the next epoch depends on: nets, optimizer and epoch."""
        remembered = optimizer_state(self.fleet, self.optimizer)
        return {**self.fleet.state(), **remembered, "epoch": torch.tensor(self.epoch)}

    def load(self, state: State) -> None:
        """Go back to a state that :meth:`state` returned."""
        self.fleet.load(state)
        self.epoch = int(state["epoch"])
        load_optimizer_state(self.fleet, self.optimizer, state)
        self._forget_recording()
