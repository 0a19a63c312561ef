"""The fleet: M nets of one architecture whose parameters lie side by side and run as one program.

A backend (:mod:`threeregime.fleet.backends`) stacks the nets in memory. Whatever its layout, the
state of a fleet is a dictionary of ``[M, ...]`` tensors, one slice per member, under the names of
the plain module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from threeregime.errors import ThreeRegimeError
from threeregime.fleet.backends import BACKENDS, PlannedPass
from threeregime.fleet.device import avoid_faulty_convolutions

State = dict[str, Tensor]
"""Parameters and statistics of a fleet by plain name, each [M, ...]."""


class Fleet:
    """M nets that run as one program.

    Args:
        build: function that returns one plain net.
        state: parameters and statistics by name, each [M, ...].
        device: device of the nets.
        dtype: precision of the nets.
        backend: an entry of :data:`threeregime.fleet.backends.BACKENDS`.
        compiled: whether to compile the pass through the nets in training.
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
        if backend == "planned" and self.device.type != "cpu":
            raise ThreeRegimeError("a planned fleet runs on a CPU: use the engine grouped")
        self.backend = BACKENDS[backend]
        self.module = self.backend.stack(build(), self.members)
        avoid_faulty_convolutions(self.module)
        self.module.to(device=self.device, dtype=dtype)
        self._forward = self.backend.forward(self.module, self.members)
        self._training = self.backend.forward(self.module, self.members, compiled)
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
        """Return a fleet of untrained nets, each initialised under its own seed."""
        states = []
        for seed in seeds:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                states.append(build().state_dict())
        names = [name for name in states[0] if not name.endswith("num_batches_tracked")]
        state = {name: torch.stack([plain[name] for plain in states]) for name in names}
        return cls(build, state, device, dtype, backend, compiled)

    def with_state(self, state: Mapping[str, Tensor]) -> Fleet:
        """Return a fleet of the same architecture with another state, of any number of members."""
        return Fleet(self.build, state, self.device, self.dtype, self.backend.name)

    def by_member(self, tensor: Tensor) -> Tensor:
        """View a stacked parameter, gradient, optimizer state or statistic as [M, ...]."""
        return self.backend.by_member(tensor.detach(), self.members)

    def as_stacked(self, values: Tensor, like: Tensor) -> Tensor:
        """Return values [M, ...], or [...] for all members, laid out as a stacked tensor."""
        stacked = torch.empty_like(like, requires_grad=False)
        self.by_member(stacked).copy_(values)
        return stacked

    def _tensors(self) -> State:
        """Return views [M, ...] of all parameters and statistics by name."""
        named = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        return {name: self.by_member(tensor) for name, tensor in named.items()}

    def state(self) -> State:
        """Return a copy of all parameters and statistics by name, each [M, ...]."""
        return {
            name: tensor.clone(memory_format=torch.contiguous_format)
            for name, tensor in self._tensors().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy parameters and statistics, each [M, ...], into the fleet, by name."""
        for name, tensor in self._tensors().items():
            tensor.copy_(state[name])

    def prunable(self) -> dict[str, nn.Parameter]:
        """Return the stacked weights that pruning covers, by name.

        They are those of every convolution, or of the layers that the net names as ``prunable``.
        """
        plain = self.build()
        kind = getattr(plain, "prunable", nn.Conv2d)
        layers = [name for name, layer in plain.named_modules() if isinstance(layer, kind)]
        names = {f"{name}.weight" for name in layers}
        return {name: p for name, p in self.module.named_parameters() if name in names}

    def batch_norms(self) -> list[_BatchNorm]:
        """Return the batch norm layers, of any dimension, that have statistics."""
        norms = [m for m in self.module.modules() if isinstance(m, _BatchNorm)]
        return [norm for norm in norms if norm.running_mean is not None]

    @contextmanager
    def batch_norm_momentum(self, momentum: float) -> Iterator[None]:
        """Return a context in which batch norm updates its statistics by another momentum."""
        values = {norm: norm.momentum for norm in self.batch_norms()}
        try:
            for norm in values:
                norm.momentum = momentum
            yield
        finally:
            for norm, value in values.items():
                norm.momentum = value

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Return a context in which all layers are in training or evaluation mode."""
        modes = {layer: layer.training for layer in self.module.modules()}
        self.module.train(training)
        try:
            yield
        finally:
            for layer, mode in modes.items():
                layer.training = mode

    def select(self, members: Sequence[int]) -> Fleet:
        """Return a fleet of copies of members, in this order; a member may occur more than once."""
        return self.with_state(
            {name: tensor[list(members)] for name, tensor in self.state().items()}
        )

    def broadcast(self, inputs: Tensor) -> Tensor:
        """Return inputs [batch, ...] for every member: [batch, M, ...]."""
        return inputs[:, None].expand(-1, self.members, *inputs.shape[1:])

    def logits(self, *inputs: Tensor) -> Tensor:
        """Return outputs [M, batch, ..., classes] for inputs of the net, each [batch, M, ...].

        They are differentiable; the mode (training or evaluation) is that of the module.
        """
        return (self._training if torch.is_grad_enabled() else self._forward)(*inputs)

    def skip_zeros(self, *states: Mapping[str, Tensor]) -> None:
        """Skip from now on the weights that are zero in all of these states, [M, ...] by name.

        Only a planned pass is faster for it. What is skipped has to stay zero.
        """
        if self.planned:
            masks = {}
            for name, weight in self.module.named_parameters():
                kept = torch.stack([state[name] != 0 for state in states]).any(dim=0)
                masks[name] = self.as_stacked(kept, weight)
            self.planned.set_masks(masks)

    @property
    def planned(self) -> PlannedPass | None:
        """The compiled pass of a fleet whose backend is ``planned``."""
        return self._forward if isinstance(self._forward, PlannedPass) else None

    def finite_members(self) -> Tensor:
        """Return which members have finite parameters and batch norm statistics: bool [M].

        Other buffers are constant and may be infinite, such as an attention mask.
        """
        statistics = [b for norm in self.batch_norms() for b in norm.buffers()]
        tensors = [self.by_member(t) for t in (*self.module.parameters(), *statistics)]
        finite = [t.reshape(self.members, -1).isfinite().all(dim=1) for t in tensors]
        return torch.stack(finite).all(dim=0)
