"""The fleet: M nets of one architecture whose parameters lie side by side and run as one program.

A fleet is made from a plain module by exchanging its layers for stacked ones
(:mod:`threeregime.fleet.backends`). Whatever the layout in memory, a fleet's state is a dictionary
of
``[M, ...]`` tensors, one slice a member, under the plain module's own names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from threeregime.fleet.backends import BACKENDS

State = dict[str, Tensor]
"""Parameters and statistics of a fleet by plain name, each [M, ...]."""


class Fleet:
    """M nets that run as one.

    Args:
        build: makes one plain net.
        state: parameters and statistics by name, each [M, ...].
        device, dtype: where and in what precision the fleet computes.
        backend: an entry of :data:`threeregime.fleet.backends.BACKENDS`.
        compiled: compile the pass through the nets in training.
    """

    def __init__(
        self,
        build: Callable[[], nn.Module],
        state: Mapping[str, Tensor],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        backend: str = "grouped",
        compiled: bool = False,
    ) -> None:
        self.build, self.dtype, self.device = build, dtype, torch.device(device)
        self.members = len(next(iter(state.values())))
        self.backend = BACKENDS[backend]
        self.module = self.backend.stack(build(), self.members)
        self.module.to(device=self.device, dtype=dtype)
        self._forward = self.backend.forward(self.module, self.members)
        self._training = (
            self.backend.forward(self.module, self.members, compiled=True)
            if compiled
            else self._forward
        )
        self.load(state)

    @classmethod
    def initial(
        cls,
        build: Callable[[], nn.Module],
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        backend: str = "grouped",
        compiled: bool = False,
    ) -> Fleet:
        """Make a fleet of fresh nets, each initialised under its own seed."""
        plains = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                plains.append(build().state_dict())
        names = [name for name in plains[0] if not name.endswith("num_batches_tracked")]
        state = {name: torch.stack([plain[name] for plain in plains]) for name in names}
        return cls(build, state, device, dtype, backend, compiled)

    def with_state(self, state: Mapping[str, Tensor]) -> Fleet:
        """Make another fleet of the same kind that holds the given state, of any size."""
        return Fleet(self.build, state, self.device, self.dtype, self.backend.name)

    def by_member(self, tensor: Tensor) -> Tensor:
        """View a stacked parameter, its gradient or momentum, or a statistic as [M, ...]."""
        return self.backend.by_member(tensor.detach(), self.members)

    def _tensors(self) -> State:
        """Views [M, ...] of every parameter and statistic, by name."""
        named = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {name: self.by_member(tensor) for name, tensor in named.items()}

    def state(self) -> State:
        """Copy of every parameter and statistic, each [M, ...]."""
        return {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in self._tensors().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy parameters and statistics, each [M, ...], into the fleet, by name."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def prunable(self) -> dict[str, nn.Parameter]:
        """The stacked weights that pruning may remove, by plain name.

        Every convolution's, or those of the layers that the net names as its ``prunable``.
        """
        plain = self.build()
        kind = getattr(plain, "prunable", nn.Conv2d)
        weights = {
            f"{name}.weight" for name, layer in plain.named_modules() if isinstance(layer, kind)
        }
        return {n: p for n, p in self.module.named_parameters() if n in weights}

    def batch_norms(self) -> list[_BatchNorm]:
        """The batch norm layers, of any dimension, that keep statistics."""
        norms = [m for m in self.module.modules() if isinstance(m, _BatchNorm)]
        return [norm for norm in norms if norm.running_mean is not None]

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Put all layers into training or evaluation mode, and back afterwards."""
        before = {layer: layer.training for layer in self.module.modules()}
        self.module.train(training)
        try:
            yield
        finally:
            for layer, was_training in before.items():
                layer.training = was_training

    def select(self, members: Sequence[int]) -> Fleet:
        """Return a fleet of the given members, in this order; one may come more than once."""
        return self.with_state(
            {name: tensor[list(members)] for name, tensor in self.state().items()}
        )

    def broadcast(self, inputs: Tensor) -> Tensor:
        """Inputs [batch, ...] for every member: [batch, M, ...]."""
        return inputs[:, None].expand(-1, self.members, *inputs.shape[1:])

    def logits(self, *inputs: Tensor) -> Tensor:
        """Outputs [M, batch, ..., classes] for what a net takes, each [batch, M, ...].

        Gradients flow; the mode (training or evaluation) is the module's.
        """
        return (self._training if torch.is_grad_enabled() else self._forward)(*inputs)

    def finite_members(self) -> Tensor:
        """Which members' parameters and statistics are finite numbers: bool [M].

        What else a net keeps does not change, and may be infinite, as the mask of attention is.
        """
        statistics = [b for norm in self.batch_norms() for b in norm.buffers()]
        tensors = [self.by_member(t) for t in (*self.module.parameters(), *statistics)]
        whole = [t.reshape(self.members, -1).isfinite().all(dim=1) for t in tensors]
        return torch.stack(whole).all(dim=0)
