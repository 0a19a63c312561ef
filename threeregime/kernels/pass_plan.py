"""The plan of a pass: a net's operations, compiled for a fleet and inputs of one shape."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from threeregime.kernels.library import load_library
from threeregime.kernels.recorder import NORM, Op, Parameter, Recorder

LossGradient = Callable[[Tensor, slice], Tensor]
"""Gradient of the losses of a slice's members, for their outputs [members, batch, classes]."""


class Sgd(ctypes.Structure):
    """Learning rate, momentum and weight decay of a step of stochastic gradient descent."""

    _fields_ = (
        ("rate", ctypes.c_double),
        ("momentum", ctypes.c_double),
        ("decay", ctypes.c_double),
    )


class PassPlan:
    """The compiled pass of M nets of one architecture over inputs of one shape.

    Members run in slices, one in each lane of the processor's vector registers: 16 in float32 and
    8 in float64 where registers have 512 bits. In float32, half a slice or less runs in registers
    of half the width. A member's numbers depend neither on its slice nor on the number of threads;
    weights that are masked in all members of a slice cost nothing.

    Args:
        recorder: operations of the plain net.
        module: the stacked net, with parameters and statistics [..., M], members last.
        members: M.

    Attributes:
        slices: the members of each slice.

    Raises:
        ThreeRegimeError: the kernels cannot be compiled.
    """

    def __init__(self, recorder: Recorder, module: nn.Module, members: int) -> None:
        self.recorder, self.members = recorder, members
        parameters = dict(module.named_parameters())
        self.parameters = [parameters[parameter.name] for parameter in recorder.parameters]
        layers = dict(module.named_modules())
        self.norms = [layers[name] for name in recorder.norms]
        self.library = load_library()
        self.double = self.parameters[0].dtype == torch.float64
        self.lanes = self.library.plan_bytes() // (8 if self.double else 4)
        starts = range(0, members, self.lanes)
        self.slices = [slice(start, min(start + self.lanes, members)) for start in starts]
        self.classes = recorder.shapes[recorder.ops[-1].output][2]
        self.passes = 0
        self._outside: list[Tensor] = []
        self._handles = {kind: self._make(kind) for kind in {self._kind(p) for p in self.slices}}
        self._parameter_pointers = _pointers(self.parameters)
        statistics = [t for n in self.norms for t in (n.running_mean, n.running_var)]
        self._statistic_pointers = _pointers(statistics)

    def _kind(self, part: slice) -> str:
        """Return the name of the kernels for a slice."""
        half = part.stop - part.start <= self.lanes // 2
        return "double" if self.double else "half_float" if half else "float"

    def _make(self, kind: str) -> ctypes.c_void_p:
        r = self.recorder
        channels = [op.C for op in r.ops if op.kind == NORM]
        # The statistics of a norm are two tensors, mean and variance.
        stats = [torch.arange(c) for c in channels for _ in range(2)]
        nothing = torch.empty(0, dtype=torch.int64)
        tensors, elements = _packed_places(r.parameters)
        lists = (
            torch.tensor(
                [len(r.ops), len(r.shapes), r.size, 2 * sum(channels), len(r.eps), len(self.slices)]
            ),
            torch.tensor([getattr(op, field.name) for op in r.ops for field in fields(Op)]),
            torch.tensor([h * w * c for h, w, c in r.shapes]),
            tensors,
            elements,
            torch.cat([nothing, *(torch.full_like(part, n) for n, part in enumerate(stats))]),
            torch.cat([nothing, *stats]),
            torch.tensor(r.eps, dtype=torch.float64),
        )
        make = getattr(self.library, f"plan_new_{kind}")
        make.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(make(*map(_pointer, lists)))
        weakref.finalize(self, getattr(self.library, f"plan_free_{kind}"), handle)
        return handle

    def _call(self, name: str, space: int, number: int, *arguments: Any) -> None:
        """Call a kernel of one slice, which works in a space."""
        part = self.slices[number]
        kind = self._kind(part)
        kernel = getattr(self.library, f"plan_{name}_{kind}")
        if kernel(self._handles[kind], *map(ctypes.c_int64, (space, number)), *arguments):
            raise MemoryError("no memory left for a planned pass")

    def _members(self, number: int) -> tuple[ctypes.c_int64, ctypes.c_int64]:
        return ctypes.c_int64(self.members), ctypes.c_int64(self.slices[number].start)

    def _momenta(self) -> Any:
        """Return the momenta of the norms' statistics, None in evaluation mode."""
        if not self._in_training():
            return None
        ctype = ctypes.c_double if self.double else ctypes.c_float
        return (ctype * len(self.norms))(*(float(norm.momentum) for norm in self.norms))

    def _outputs(self, images: Tensor, momenta: Any, space: int, number: int, keep: bool) -> Tensor:
        """Return outputs [batch, classes, n] of a slice's n members.

        Args:
            images: [batch, n, C, H, W].
            momenta: as returned by :meth:`_momenta`.
            space: number of the buffers to use.
            number: number of the slice.
            keep: whether a backward pass follows.
        """
        batch, member, channel, *pixel = images.stride()
        strides = [batch, *(pixel or (0, 0)), channel, member]
        outputs = images.new_empty(len(images), self.classes, images.shape[1])
        self._call(
            "forward", space, number,
            ctypes.c_int64(keep), ctypes.c_int64(len(images)), *self._members(number),
            _pointer(images), (ctypes.c_int64 * 5)(*strides),
            self._parameter_pointers, self._statistic_pointers,
            momenta, _pointer(outputs),
        )  # fmt: skip
        return outputs

    def _gradients(self, grad: Tensor, space: int, number: int, gradients: Any) -> None:
        """Compute a slice's gradients, for those of its outputs [batch, classes, n]."""
        grad = grad.contiguous()
        self._call("backward", space, number, *self._members(number), _pointer(grad), gradients)

    def _each(self, work: Callable[[int], Any]) -> list[Any]:
        """Do the work of each slice, by its number, on PyTorch's number of threads."""
        threads, numbers = torch.get_num_threads(), range(len(self.slices))
        if threads == 1 or len(numbers) == 1:
            return [work(number) for number in numbers]
        with ThreadPoolExecutor(min(threads, len(numbers))) as pool:
            return list(pool.map(work, numbers))

    def __call__(self, images: Tensor) -> Tensor:
        """Return outputs [M, batch, classes] for images [batch, M, C, H, W].

        In training mode they can be differentiated once with respect to the parameters.
        """
        self._check(images)
        if torch.is_grad_enabled() and self._in_training():
            outputs: Tensor = _Pass.apply(self, images, *self.parameters)
        else:
            outputs = self._all_outputs(images, keep=False)
        return outputs.permute(2, 0, 1)

    def _check(self, images: Tensor) -> None:
        if images.dtype != self.parameters[0].dtype or images.shape[1] != self.members:
            raise RuntimeError(
                f"images of {images.dtype} for {images.shape[1]} nets, where the fleet is of "
                f"{self.parameters[0].dtype} and has {self.members}"
            )
        if len({norm.training for norm in self.norms}) > 1:
            raise RuntimeError("some norms are in training mode, others are not: use grouped")

    def _in_training(self) -> bool:
        return not self.norms or all(norm.training for norm in self.norms)

    def _all_outputs(self, images: Tensor, keep: bool) -> Tensor:
        """Return outputs [batch, classes, M] for images [batch, M, C, H, W]."""
        own, momenta = keep or torch.get_num_threads() > 1, self._momenta()
        self.passes += own

        def outputs(number: int) -> Tensor:
            space = number if own else len(self.slices)
            return self._outputs(images[:, self.slices[number]], momenta, space, number, keep)

        return torch.cat(self._each(outputs), dim=2)

    def descend(
        self, images: Tensor, loss_gradient: LossGradient, sgd: Sgd, buffers: Sequence[Tensor]
    ) -> None:
        """Make a step of stochastic gradient descent, slice by slice.

        All that a slice needs stays in the processor's cache from the forward pass to its new
        weights. Weights outside of the masks stay zero.

        Args:
            images: [batch, M, C, H, W].
            loss_gradient: function that returns the gradient of a slice's loss.
            sgd: the constants of the step.
            buffers: momentum of each of :attr:`parameters`; empty without momentum.

        Raises:
            RuntimeError: the images do not fit, or the nets are not in training mode.
        """
        self._check(images)
        if not self._in_training():
            raise RuntimeError("a step needs the nets in training mode")
        self.passes += torch.get_num_threads() > 1
        pointers, momenta = _pointers(buffers) if buffers else None, self._momenta()

        def step(number: int) -> None:
            part = self.slices[number]
            space = number if torch.get_num_threads() > 1 else len(self.slices)
            outputs = self._outputs(images[:, part], momenta, space, number, keep=True)
            gradient = loss_gradient(outputs.permute(2, 0, 1), part)
            self._gradients(gradient.permute(1, 2, 0), space, number, None)
            self._call(
                "descend", space, number, *self._members(number),
                self._parameter_pointers, pointers, ctypes.byref(sgd),
            )  # fmt: skip

        self._each(step)

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Skip from now on the weights that all members of a slice have masked.

        Args:
            masks: masks by name, [..., M] as the parameters; weights without one are computed.
        """
        laid = [
            masks[parameter.name].contiguous()
            if parameter.name in masks
            else torch.ones_like(value)
            for parameter, value in zip(self.recorder.parameters, self.parameters, strict=True)
        ]
        self._outside = [mask == 0 for mask in laid]
        pointers = _pointers(laid)
        for number in range(len(self.slices)):
            self._call("masks", 0, number, *self._members(number), pointers)


class _Pass(torch.autograd.Function):
    """A pass through the plan as one node of autograd."""

    @staticmethod
    def forward(ctx: Any, plan: PassPlan, images: Tensor, *parameters: Tensor) -> Tensor:
        outputs = plan._all_outputs(images, keep=True)
        ctx.plan, ctx.number = plan, plan.passes
        return outputs

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        plan: PassPlan = ctx.plan
        if ctx.number != plan.passes:
            raise RuntimeError("another pass has overwritten what this backward pass needs")
        gradients = [torch.empty_like(parameter) for parameter in plan.parameters]
        pointers = _pointers(gradients)
        plan._each(
            lambda number: plan._gradients(
                grad[:, :, plan.slices[number]], number, number, pointers
            )
        )
        # Those of masked weights are computed or not, by what the slice's other members need.
        for gradient, outside in zip(gradients, plan._outside, strict=False):
            gradient.masked_fill_(outside, 0)
        return (None, None, *gradients)


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


def _packed_places(parameters: Sequence[Parameter]) -> tuple[Tensor, Tensor]:
    """Return, for each packed parameter, the number of its tensor and its element there.

    Weights of convolutions lie in blocks of 4, 2 and 1 output channels: [block][k k][C][channels].
    """
    elements = []
    for parameter in parameters:
        count = torch.Size(parameter.shape).numel()
        places = torch.arange(count).view(parameter.shape)
        if places.dim() == 4:
            outputs = len(places)
            widths = [4] * (outputs // 4) + [2] * (outputs % 4 // 2) + [1] * (outputs % 2)
            blocks = places.split(widths)
            places = torch.cat([block.permute(2, 3, 1, 0).flatten() for block in blocks])
        elements.append(places.flatten())
    tensors = [torch.full_like(part, number) for number, part in enumerate(elements)]
    return torch.cat(tensors), torch.cat(elements)
