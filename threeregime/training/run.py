"""A training run of a fleet, step by step, resumable at every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from threeregime.data import Batches
from threeregime.errors import ThreeRegimeError
from threeregime.fleet import PRECISIONS, CudaGraphStep, Engine, Fleet, State
from threeregime.protocol import Dense, Training
from threeregime.pruning import Masks, Quantizer
from threeregime.training.optimizers import (
    Optimizer,
    PlannedSgd,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    sam_gradients,
)

PLAINEST = Engine()


class TrainingRun:
    """A training run of a fleet.

    Args:
        fleet: the nets.
        loader: batches, one random stream per member.
        recipe: optimizer and schedule.
        engine: precision of a step's products, and whether it is recorded as a CUDA graph; its
            backend, and whether it is compiled, are given by the fleet.

    Attributes:
        epoch: number of epochs done.
        epochs: number of epochs of the whole run; that of the recipe unless it gives steps.
        advance: function of a step's draws that makes the step.
        on_step_end: function that is called after each step.
    """

    def __init__(
        self, fleet: Fleet, loader: Batches, recipe: Training, engine: Engine = PLAINEST
    ) -> None:
        self.fleet, self.loader, self.recipe = fleet, loader, recipe
        self.epoch = 0
        self.parameters = dict(fleet.module.named_parameters())
        # A tensor, which a recorded step reads each time; the CUDA kernel requires 32 bits.
        dtype = torch.float32 if fleet.device.type == "cuda" else torch.float64
        self._rate = recipe.lr
        self.rate = torch.tensor(recipe.lr, dtype=dtype, device=fleet.device)
        sam = isinstance(recipe, Dense) and recipe.rho
        # A step that is one pass and plain descent is part of a planned pass.
        plain = recipe.optimizer == "sgd" and not sam
        trained = all(parameter.requires_grad for parameter in self.parameters.values())
        planned = self.fleet.planned if plain and trained else None
        self.graphed = engine.graphed
        self.optimizer = PlannedSgd(planned, recipe) if planned else self._torch_optimizer()
        self.epochs = math.ceil(recipe.steps(loader.steps) / loader.steps)
        self.masked: list[tuple[Tensor, Tensor]] = []
        self.quantizer: Quantizer | None = None
        self.low_precision = PRECISIONS[engine.precision]
        self.advance: Callable[..., None] = self.step
        self.on_step_end: Callable[[], None] = lambda: None
        self._discard_graph()

    def _torch_optimizer(self) -> Optimizer:
        return make_optimizer(
            self.recipe, self.parameters.values(), self.rate, recorded=self.graphed
        )

    def _discard_graph(self) -> None:
        """Record the step again: a CUDA graph works on the tensors of its recording."""
        if self.graphed:
            self.advance = CudaGraphStep(self.step, before=self.fleet.module.zero_grad)

    @torch.no_grad()
    def prune(self, masks: Masks) -> None:
        """Set the weights outside of masks ([M, ...] by name) to zero; they stay exactly zero."""
        masks_as_laid: dict[str, Tensor] = {}
        for name, mask in masks.items():
            weight = self.parameters[name]
            factor = self.fleet.as_stacked(mask, weight)
            weight.mul_(factor)
            masks_as_laid[name] = factor
            self.masked.append((weight, factor == 0))
        if self.fleet.planned:
            self.fleet.planned.set_masks(masks_as_laid)

    def quantize(self, bits: Sequence[int | None]) -> None:
        """Train with quantized weights from now on.

        The fleet keeps the latent weights, which are trained and saved.

        Args:
            bits: bits of a weight, one entry per member; None leaves a member as it is.
        """
        if any(count is not None for count in bits):
            self.quantizer = Quantizer(self.fleet, bits)
            self.optimizer = self._torch_optimizer()

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Return a context in which the fleet holds the weights to evaluate: quantized ones."""
        return self.quantizer.quantized_weights() if self.quantizer else nullcontext()

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the sum over members of their mean cross-entropy.

        The gradient of each member is then as if it were alone.

        Args:
            inputs: [batch, M, ...].
            targets: [M, batch, ...].
        """
        # Weights are used once per step: caching their 16-bit copies would gain nothing.
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
            draws: from :meth:`threeregime.data.Batches.step_draws`.
        """
        if isinstance(self.optimizer, PlannedSgd):
            self._planned_step(self.optimizer, draws)
            return
        batch = self.loader.batch(draws, self.fleet.dtype)

        def backward() -> None:
            self.fleet.module.zero_grad()
            self.loss(*batch).backward()
            # A masked gradient keeps weight and optimizer at zero: decay of zero is zero too.
            for weight, outside in self.masked:
                if weight.grad is not None:
                    weight.grad.masked_fill_(outside, 0)

        with self.evaluated_weights():
            if isinstance(self.recipe, Dense) and self.recipe.rho:
                sam_gradients(self.fleet, self.recipe.rho, backward)
            else:
                backward()
        self.optimizer.step()

    def _planned_step(self, optimizer: PlannedSgd, draws: Sequence[Tensor]) -> None:
        images, targets = self.loader.batch(draws, self.fleet.dtype)

        def gradient(logits: Tensor, members: slice) -> Tensor:
            return self.loader.task.loss_gradient(logits, targets[members], self.recipe.smoothing)

        optimizer.step(images, gradient, self._rate)

    def run_epoch(self) -> None:
        """Train every member for one epoch. On a GPU only its end waits for the device."""
        draws, steps = self.loader.draw(self.epoch), self.loader.steps
        first = self.epoch * steps
        recorded = isinstance(self.advance, CudaGraphStep) and self.advance.graph is not None
        weights = [p.detach().clone() for p in self.parameters.values()] if recorded else []
        with self.fleet.mode(training=True):
            for step in range(min(steps, self.recipe.steps(steps) - first)):
                rate = self.recipe.rate(first + step, steps)
                if step == 0 or rate != self._rate:
                    self._rate = rate
                    self.rate.fill_(rate)
                self.advance(*self.loader.step_draws(draws, step))
                self.on_step_end()
        self.epoch += 1
        if self.fleet.device.type == "cuda":
            # While the queued steps run, draw the next epoch's batches.
            self.loader.draw(self.epoch)
            torch.cuda.synchronize(self.fleet.device)
        if weights and all(map(torch.equal, weights, self.parameters.values())):
            raise ThreeRegimeError(
                "the recorded step does not change the weights: run it without a graph, e.g. "
                "--engine 'grouped bfloat16'"
            )

    def state(self) -> State:
        """Return all that the next epoch depends on: nets, optimizer state and epoch."""
        optimizer = optimizer_state(self.fleet, self.optimizer)
        return {**self.fleet.state(), **optimizer, "epoch": torch.tensor(self.epoch)}

    def load(self, state: State) -> None:
        """Load a state that :meth:`state` returned."""
        self.fleet.load(state)
        self.epoch = int(state["epoch"])
        load_optimizer_state(self.fleet, self.optimizer, state)
        self._discard_graph()
