"""Backends: how the M nets of a fleet are stacked in memory and run as one program.

- ``planned``: a list of operations that compiled code runs for as many nets as the vector registers
  of a CPU have lanes (:mod:`threeregime.kernels`). The fastest on a CPU, for nets of convolutions,
  batch norm, pooling and linear layers; needs a C++ compiler.
- ``grouped``: a convolution of all nets is a grouped convolution
  (:mod:`threeregime.fleet.stacked`); activations are ``[batch, M * channels, height, width]``,
  channels last in memory, so that batch norm and pointwise functions stay as they are.
- ``separate``: the plain layers member by member, on parallel streams inside a CUDA graph, for nets
  whose single layers fill the device, and for layers without a stacked form.
- ``vmapped``: PyTorch batches each operation over the members, for nets of matrix products, as in a
  Transformer.
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
from threeregime.fleet.stacked import GROUPED, Layers
from threeregime.kernels import PassPlan, load_library, record

Forward = Callable[..., Tensor]


class Backend(ABC):
    """How M copies of a plain net are stacked, run, and taken apart again."""

    name: ClassVar[str]

    @abstractmethod
    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Return a module with the parameters and statistics of M copies of ``plain``.

        Raises:
            ThreeRegimeError: a layer with parameters cannot run in this backend.
        """

    @abstractmethod
    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked parameter or statistic as [M, ...]."""

    @abstractmethod
    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """Return a function from inputs, each [batch, M, ...], to outputs [M, batch, ...]."""


class Grouped(Backend):
    """Member by member: the first dimension of a parameter is M times the plain layer's."""

    name = "grouped"
    layers: ClassVar[Layers] = GROUPED

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Exchange all layers that have a stacked form, in a shallow copy of the module."""
        if type(plain) in self.layers:
            return self.layers[type(plain)](plain, members)
        if next(plain.parameters(recurse=False), None) is not None:
            raise ThreeRegimeError(
                f"a layer of type {type(plain).__name__} cannot run in a fleet that is "
                f"{self.name}: use the engine separate, or give the layer a stacked form in "
                "threeregime/fleet/stacked.py"
            )
        stacked = copy.copy(plain)
        stacked._modules = {
            name: None if child is None else self.stack(child, members)
            for name, child in plain._modules.items()
        }
        return stacked

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(0, (members, -1))

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """Call the stacked net once."""
        run = torch.compile(stacked, dynamic=False) if compiled else stacked

        def forward(images: Tensor) -> Tensor:
            packed = images.flatten(1, 2).contiguous(memory_format=torch.channels_last)
            return run(packed).unflatten(1, (members, -1)).transpose(0, 1)

        return forward


class Planned(Backend):
    """Members innermost; the whole pass is one list of operations, run by compiled code."""

    name = "planned"

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Repeat every parameter and statistic along the last dimension."""
        load_library()
        stacked = copy.deepcopy(plain)
        for layer in stacked.modules():
            for name, p in layer._parameters.items():
                if p is not None:
                    repeated = _repeated_last(p.detach(), members)
                    layer._parameters[name] = nn.Parameter(repeated, p.requires_grad)
            for name, b in layer._buffers.items():
                # The count is left out for the reason given in threeregime.fleet.stacked._norm.
                if b is not None:
                    counted = name == "num_batches_tracked"
                    layer._buffers[name] = None if counted else _repeated_last(b, members)
        # Not a submodule: its parameters are not those of the fleet.
        stacked.__dict__["plain"] = plain
        return stacked

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """View a stacked tensor as [M, ...]."""
        return tensor.unflatten(-1, (-1, members)).movedim(-1, 0)

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> PlannedPass:
        """Return the pass of the stacked net, which is the same in training and evaluation."""
        passes: PlannedPass = stacked.__dict__.setdefault("pass", PlannedPass(stacked, members))
        return passes


class PlannedPass:
    """The pass of a fleet that is planned; it has one plan for each shape of inputs."""

    def __init__(self, stacked: nn.Module, members: int) -> None:
        self.stacked, self.members = stacked, members
        self.plans: dict[tuple[torch.Size, torch.dtype], PassPlan] = {}
        self.masks: dict[str, Tensor] = {}

    def plan(self, shape: torch.Size, dtype: torch.dtype) -> PassPlan:
        """Return the plan for inputs of a shape [C, H, W] or [features].

        Raises:
            UnplannedOp: the net calls an operation that no plan has.
        """
        key = (shape, dtype)
        if key not in self.plans:
            recorder = record(self.stacked.__dict__["plain"].to(dtype), shape)
            self.plans[key] = PassPlan(recorder, self.stacked, self.members)
            if self.masks:
                self.plans[key].set_masks(self.masks)
        return self.plans[key]

    def set_masks(self, masks: dict[str, Tensor]) -> None:
        """Skip from now on what all members of a slice have masked; masks lie as parameters do."""
        self.masks = masks
        for plan in self.plans.values():
            plan.set_masks(masks)

    def __call__(self, images: Tensor) -> Tensor:
        """Return outputs [M, batch, classes] for images [batch, M, C, H, W]."""
        return self.plan(images.shape[2:], images.dtype)(images)


def _repeated_last(tensor: Tensor, members: int) -> Tensor:
    """Return M copies, innermost: the last dimension is M times as long.

    Raises:
        ThreeRegimeError: the tensor has no dimension.
    """
    if not tensor.dim():
        raise ThreeRegimeError("a net with a scalar parameter or buffer is in no plan")
    return tensor.repeat_interleave(members, dim=-1)


class Separate(Backend):
    """The plain net's own layers with parameters [M, ...]; each member runs by itself."""

    name = "separate"
    STREAMS = 16

    def stack(self, plain: nn.Module, members: int) -> nn.Module:
        """Repeat every parameter and statistic, without exchanging layers."""
        stacked = copy.deepcopy(plain)
        # A tensor that several layers share stays shared: parameters() lists it once.
        parameters = {
            id(p): nn.Parameter(_repeated(p.detach(), members), p.requires_grad)
            for p in stacked.parameters()
        }
        buffers = {id(b): _repeated(b, members) for b in stacked.buffers()}
        for layer in stacked.modules():
            for name, p in layer._parameters.items():
                layer._parameters[name] = None if p is None else parameters[id(p)]
            for name, b in layer._buffers.items():
                # The count is left out for the reason given in threeregime.fleet.stacked._norm.
                unused = b is None or name == "num_batches_tracked"
                layer._buffers[name] = None if unused else buffers[id(b)]
        return stacked

    def by_member(self, tensor: Tensor, members: int) -> Tensor:
        """Return the tensor, which is [M, ...]."""
        return tensor

    def forward(self, stacked: nn.Module, members: int, compiled: bool = False) -> Forward:
        """Call the net for each member, with that member's slices."""
        net = _functional(stacked)
        run = torch.compile(net, dynamic=False) if compiled else net

        def forward(*inputs: Tensor) -> Tensor:
            # unbind() collects the gradients of all slices in one operation.
            tensors = {**dict(stacked.named_parameters()), **dict(stacked.named_buffers())}
            slices = {name: tensor.unbind() for name, tensor in tensors.items()}

            def member(m: int) -> Tensor:
                tensors = {name: parts[m] for name, parts in slices.items()}
                return run(tensors, *(_member_input(batch[:, m]) for batch in inputs))

            calls = [partial(member, m) for m in range(members)]
            capturing = inputs[0].is_cuda and torch.cuda.is_current_stream_capturing()
            return torch.stack(_run_on_streams(calls) if capturing else [call() for call in calls])

        return forward


def _functional(net: nn.Module) -> Forward:
    """Return a net as a function of its parameters and statistics by name, and of its inputs."""

    def forward(tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        return functional_call(net, tensors, inputs)

    return forward


def _repeated(tensor: Tensor, members: int) -> Tensor:
    """Return M equal slices [M, ...]; convolution weights have channels last in memory."""
    slices = tensor.repeat(members, *[1] * tensor.dim())
    return slices.movedim(2, -1).contiguous().movedim(-1, 2) if tensor.dim() == 4 else slices


def _member_input(inputs: Tensor) -> Tensor:
    """Return one member's inputs contiguous; images with channels last, as convolutions need."""
    layout = torch.channels_last if inputs.dim() == 4 else torch.contiguous_format
    return inputs.contiguous(memory_format=layout)


def _run_on_streams(calls: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
    """Make calls on parallel streams, on which their backward passes run too."""
    current = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in range(min(Separate.STREAMS, len(calls)))]
    results = []
    for stream in streams:
        stream.wait_stream(current)
    for number, call in enumerate(calls):
        with torch.cuda.stream(streams[number % len(streams)]):
            results.append(call())
    for stream in streams:
        current.wait_stream(stream)
    return results


class Vmapped(Separate):
    """Parameters as in separate; every operation of the net runs once, batched over the members.

    For many small nets without statistics, which batch norm would have to change in place.
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
        """Call the net once, mapped over the members."""
        net = _functional(stacked)

        def mapped(tensors: dict[str, Tensor], *inputs: Tensor) -> Tensor:
            # The batch comes first in the inputs, the member in parameters and outputs.
            return vmap(net, in_dims=(0, *[1] * len(inputs)))(tensors, *inputs)

        run = torch.compile(mapped, dynamic=False) if compiled else mapped
        return lambda *inputs: run(dict(stacked.named_parameters()), *inputs)


_ALL = (Grouped(), Planned(), Separate(), Vmapped())
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}
