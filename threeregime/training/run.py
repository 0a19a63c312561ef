"""Training a fleet, step by step, resumable at every epoch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from threeregime.data.task import Batches, Task
from threeregime.fleet.cuda_graph import Graphed
from threeregime.fleet.engine import PRECISIONS, Engine
from threeregime.fleet.fleet import Fleet, State
from threeregime.protocol import Dense, Training
from threeregime.pruning.magnitude import Masks
from threeregime.pruning.quantization import Quantizer
from threeregime.training.optimizers import ascend, optimizer, restore, saved

PLAINEST = Engine()


class Run:
    """A fleet in training.

    Args:
        fleet: the nets.
        loader: batches, one stream a member.
        training: the schedule.
        engine: precision of a step's products, and whether it is recorded as a CUDA graph; the
            fleet's mechanism, and whether it is compiled, are the fleet's own.
    """

    def __init__(
        self, fleet: Fleet, loader: Batches, training: Training, engine: Engine = PLAINEST
    ) -> None:
        self.fleet, self.loader, self.training = fleet, loader, training
        self.epoch = 0
        self.parameters = dict(fleet.module.named_parameters())
        # A tensor, so that a recorded step reads it anew each time; CUDA's kernel wants 32 bits.
        exact = torch.float32 if fleet.device.type == "cuda" else torch.float64
        self._rate = training.lr
        self.rate = torch.tensor(training.lr, dtype=exact, device=fleet.device)
        self.optimizer = optimizer(
            training, self.parameters.values(), self.rate, recorded=engine.graphed
        )
        self.epochs = math.ceil(training.steps(loader.steps) / loader.steps)
        self.masked: list[tuple[Tensor, Tensor]] = []
        self.quantizer: Quantizer | None = None
        self.low_precision = PRECISIONS[engine.precision]
        self.graphed = engine.graphed
        self.advance: Callable[..., None] = self.step
        self._forget_recording()

    def _forget_recording(self) -> None:
        """Record the step anew: a recorded one works on the tensors of its time."""
        if self.graphed:
            self.advance = Graphed(self.step, before=self.optimizer.zero_grad)

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

    def quantize(self, bits: Sequence[int | None]) -> None:
        """From now on the nets have weights of so many bits, one a member; None: of full precision.

        The fleet goes on holding the latent weights, which are trained and saved.
        """
        if any(own is not None for own in bits):
            self.quantizer = Quantizer(self.fleet, bits)

    def compressed(self) -> AbstractContextManager[None]:
        """Inside, the fleet holds the nets as they are evaluated and measured: quantised ones."""
        return self.quantizer.applied() if self.quantizer else nullcontext()

    def loss(self, inputs: Tensor, truth: Tensor) -> Tensor:
        """Sum over members of each one's mean cross-entropy: gradients as if each were alone."""
        # Weights are used once a step: keeping their 16-bit copies would gain nothing.
        with torch.autocast(
            self.fleet.device.type,
            self.low_precision,
            enabled=self.low_precision is not None,
            cache_enabled=False,
        ):
            logits = self.fleet.logits(inputs)
        logits = logits.to(self.fleet.dtype)
        return self.loader.task.loss(logits, truth, self.training.smoothing)

    def step(self, *drawn: Tensor) -> None:
        """One step of every member on its own batch, as :meth:`Batches.part` drew it."""
        batch = self.loader.batch(drawn, self.fleet.dtype)

        def backward() -> None:
            self.optimizer.zero_grad()
            self.loss(*batch).backward()

        with self.compressed():
            if isinstance(self.training, Dense) and self.training.rho:
                ascend(self.fleet, self.training.rho, backward)
            else:
                backward()
        if self.masked:
            # A masked gradient keeps weight and optimizer at zero: decay of zero is zero too.
            gradients = [weight.grad for weight, _ in self.masked if weight.grad is not None]
            torch._foreach_mul_(gradients, [mask for _, mask in self.masked])
        self.optimizer.step()

    def run_epoch(self) -> None:
        """Train every member for one epoch. On a GPU nothing waits for it but its end."""
        self.fleet.module.train()
        draws, each = self.loader.draw(self.epoch), self.loader.steps
        before = self.epoch * each
        for step in range(min(each, self.training.steps(each) - before)):
            rate = self.training.rate(before + step, each)
            if step == 0 or rate != self._rate:
                self._rate = rate
                self.rate.fill_(rate)
            self.advance(*self.loader.part(draws, step))
        self.epoch += 1
        if self.fleet.device.type == "cuda":
            # The steps are queued: there is time to draw the next epoch's batches.
            self.loader.draw(self.epoch)
            torch.cuda.synchronize(self.fleet.device)

    def state(self) -> State:
        """Everything that the next epoch depends on: nets, optimizer and epoch."""
        remembered = saved(self.fleet, self.optimizer)
        return {**self.fleet.state(), **remembered, "epoch": torch.tensor(self.epoch)}

    def load(self, state: State) -> None:
        """Go back to a state that :meth:`state` returned."""
        self.fleet.load(state)
        self.epoch = int(state["epoch"])
        restore(self.fleet, self.optimizer, state)
        self._forget_recording()


@torch.no_grad()
def errors(fleet: Fleet, data: Task, train: bool) -> Tensor:
    """Error of every member on a whole split, un-augmented, in evaluation mode: [M], NaN if broken.

    A member with a parameter or statistic that is not finite has no error.
    """
    fleet.module.eval()
    return data.errors(fleet, train).masked_fill(~fleet.finite(), torch.nan)


@torch.no_grad()
def outputs(fleet: Fleet, data: Task, samples: int) -> Tensor:
    """Logits of every member for the first training examples: [M, samples or fewer, classes]."""
    fleet.module.eval()
    return data.outputs(fleet, samples)
