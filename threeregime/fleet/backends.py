"""How M nets run as one program: layouts of a fleet's memory, and the layers that run in them.

``grouped`` and ``lanes`` exchange the layers of a plain net for stacked ones
(:mod:`threeregime.fleet.stacked`). In both, activations
are ``[batch, M * channels, height, width]``, channels last in memory, so that batch norm stays
batch norm and everything pointwise stays as it is. They differ in which comes first there:

- ``grouped``: member by member. A convolution is a grouped convolution. Runs everywhere.
- ``lanes``: channel by channel, the members innermost, one in each lane of the processor's vector
  registers. A convolution is :func:`threeregime.fleet.lanes.conv2d`. CPU with a C++ compiler; the
  fastest
  there for small nets (``python -m benchmarks.fleet``).

``separate`` leaves the layers as they are and runs the members one after the other; inside a CUDA
graph, on streams beside each other. It is for nets whose single layers already fill the device,
and for layers that have no stacked form. ``vmapped`` leaves them, too, and has PyTorch rewrite
each operation for all members: for nets of matrix products, as a Transformer is.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from threeregime.errors import ThreeRegimeError
from threeregime.fleet.stacked import GROUPED, LANES, Layers

Forward = Callable[..., Tensor]


class Backend(ABC):
    """How M copies of a plain net are stacked, run, and taken apart again."""

    name: ClassVar[str]

    @abstractmethod
    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Return a module whose parameters and statistics are those of M copies of ``plain``.

        Raises:
            ThreeRegimeError: a layer with parameters of its own has no stacked form.
        """

    @abstractmethod
    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked parameter or statistic as [M, ...], one slice a member."""

    @abstractmethod
    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """Function from what a net takes, each [batch, M, ...], to outputs [M, batch, ...]."""


class Layout(Backend):
    """A backend that exchanges a net's layers for stacked ones."""

    layers: ClassVar[Layers]

    @abstractmethod
    def pack(self, images: Tensor) -> Tensor:
        """Turn images [batch, M, c, h, w] into the stacked net's input, channels last."""

    @abstractmethod
    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Turn the stacked net's outputs [batch, M * classes] into [M, batch, classes]."""

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Exchange layers that have parameters, throughout the module."""
        if type(plain) in self.layers:
            return self.layers[type(plain)](plain, members)
        if next(plain.parameters(recurse=False), None) is not None:
            raise ThreeRegimeError(
                f"a layer of type {type(plain).__name__} cannot run in a fleet that is "
                f"{self.name}: use the engine separate, or give the layer a stacked form in "
                "threeregime/fleet/stacked.py"
            )
        return _copied(plain, lambda child: self.stack(child, members))

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """One call of the stacked net."""
        run = torch.compile(stacked, dynamic=False) if compiled else stacked
        return lambda images: self.unpack(run(self.pack(images)), members)


def _copied(plain: nn.Module, child: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Shallow copy of a module with its children exchanged."""
    made = copy.copy(plain)
    made._modules = {name: m if m is None else child(m) for name, m in plain._modules.items()}
    return made


class Grouped(Layout):
    """Member by member: parameters have M times the rows of the plain layer's."""

    name = "grouped"
    layers: ClassVar[Layers] = GROUPED

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(0, (members, -1))

    def pack(self, images: Tensor) -> Tensor:
        """Lay images side by side."""
        return images.flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Take outputs apart."""
        return outputs.unflatten(1, (members, -1)).transpose(0, 1)


class Lanes(Layout):
    """Members innermost: the last dimension of every parameter is M times the plain layer's."""

    name = "lanes"
    layers: ClassVar[Layers] = LANES

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(-1, (-1, members)).movedim(-1, 0)

    def pack(self, images: Tensor) -> Tensor:
        """Lay images side by side."""
        return images.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)

    def unpack(self, outputs: Tensor, members: int) -> Tensor:
        """Take outputs apart."""
        return outputs.unflatten(1, (-1, members)).permute(2, 0, 1)


class Separate(Backend):
    """Parameters [M, ...] of the plain net's own layers, each member run by itself."""

    name = "separate"
    streams = 16

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Repeat every parameter and statistic, tied ones once; no layer is exchanged."""
        made = copy.deepcopy(plain)
        # What is one tensor in several layers stays one: named_parameters lists each once.
        parameters = {
            id(p): nn.Parameter(_repeated(p.detach(), members), p.requires_grad)
            for p in made.parameters()
        }
        buffers = {id(b): _repeated(b, members) for b in made.buffers()}
        for layer in made.modules():
            for name, p in layer._parameters.items():
                layer._parameters[name] = None if p is None else parameters[id(p)]
            for name, b in layer._buffers.items():
                # Of batch norm's count, see threeregime.fleet.stacked._norm.
                left_out = b is None or name == "num_batches_tracked"
                layer._buffers[name] = None if left_out else buffers[id(b)]
        return made

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """It is [M, ...]."""
        return tensor

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """A call of the net for each member, with that member's slices."""
        one = _with_tensors(stacked)
        run = torch.compile(one, dynamic=False) if compiled else one

        def forward(*inputs: Tensor) -> Tensor:
            # Unbound at once: the gradients of all slices are then put together at once.
            whole = {**dict(stacked.named_parameters()), **dict(stacked.named_buffers())}
            parts = {name: tensor.unbind() for name, tensor in whole.items()}
            calls = [
                partial(
                    run,
                    {n: part[m] for n, part in parts.items()},
                    *(_alone(given[:, m]) for given in inputs),
                )
                for m in range(members)
            ]
            capturing = inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()
            return torch.stack(_beside(calls) if capturing else [call() for call in calls])

        return forward


def _with_tensors(net: nn.Module) -> Forward:
    """A net as a function of its parameters and statistics by name, and of what it takes."""

    def one(tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(net, tensors, inputs)

    return one


def _repeated(tensor: Tensor, members: int) -> Tensor:
    """[M, ...] of equal slices; those of a convolution's weight have channels last in memory."""
    slices = tensor.repeat(members, *[1] * tensor.dim())
    return slices.movedim(2, -1).contiguous().movedim(-1, 2) if tensor.dim() == 4 else slices


def _alone(inputs: Tensor) -> Tensor:
    """One member's inputs; images in the layout that convolutions want."""
    images = inputs.dim() == 4
    return inputs.contiguous(
        memory_format=torch.channels_last if images else torch.contiguous_format
    )


def _beside(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Make calls on streams beside each other; their backward passes run there too."""
    here = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in range(min(Separate.streams, len(calls)))]
    results = []
    for stream in streams:
        stream.wait_stream(here)
    for number, call in enumerate(calls):
        with torch.cuda.stream(streams[number % len(streams)]):
            results.append(call())
    for stream in streams:
        here.wait_stream(stream)
    return results


class Vmapped(Separate):
    """Parameters as in separate; every operation of the plain net is done for all members at once.

    A product of matrices becomes a batched one. For many small nets without statistics, which
    batch norm would have to change in place.
    """

    name = "vmapped"

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Repeat every parameter."""
        if next(plain.buffers(), None) is not None:
            raise ThreeRegimeError(
                "a net with statistics (batch norm) cannot run in a fleet that is vmapped: use "
                "grouped or separate"
            )
        return super().stack(plain, members)

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """One call of the net, mapped over the members."""
        one = _with_tensors(stacked)

        def all_at_once(tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            # The batch comes first in the inputs, the member in parameters and outputs.
            return vmap(one, in_dims=(0, *[1] * len(inputs)))(tensors, *inputs)

        run = torch.compile(all_at_once, dynamic=False) if compiled else all_at_once
        return lambda *inputs: run(dict(stacked.named_parameters()), *inputs)


BACKENDS: dict[str, Backend] = {m.name: m for m in (Grouped(), Lanes(), Separate(), Vmapped())}
