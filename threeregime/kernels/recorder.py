"""Recording of a plain net's pass as a list of operations."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from threeregime.errors import ThreeRegimeError

KINDS = ("conv", "norm", "add", "concat", "mean", "average", "max", "linear", "relu")
CONV, NORM, ADD, CONCAT, MEAN, AVERAGE, MAX, LINEAR, RELU = range(len(KINDS))


class UnplannedOp(ThreeRegimeError):
    """A net calls an operation that no plan has."""


@dataclass
class Op:
    """Operation of a plan, with the fields of ``planned.cpp``; tensors are numbers, -1 for none."""

    kind: int
    input: int
    other: int = -1
    output: int = -1
    C: int = 0
    H: int = 1
    W: int = 1
    O: int = 0  # noqa: E741 - channels of the output
    Ho: int = 1
    Wo: int = 1
    k: int = 1
    s: int = 1
    p: int = 0
    w: int = -1
    b: int = -1
    stat: int = -1
    relu: int = 0
    norm: int = -1
    lazy: int = 0


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation: its name, its plain shape, and its offset among all of them."""

    name: str
    shape: tuple[int, ...]
    offset: int


class Recorder(TorchFunctionMode):
    """Records the operations that a net calls on one input [batch, C, H, W].

    Attributes:
        ops: operations in the order of their calls.
        shapes: (H, W, C) of every tensor, the input first.
        parameters: those that operations use, in this order.
        norms: names of the batch norms.
        eps: of each batch norm.
        size: number of elements of all parameters.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        named = [*net.named_parameters(), *net.named_buffers()]
        self.names = {id(tensor): name for name, tensor in named}
        self.ops: list[Op] = []
        self.shapes: list[tuple[int, int, int]] = []
        self.tensors: dict[int, int] = {}
        self.alive: list[Tensor] = []  # an id is unique as long as its tensor lives
        self.parameters: list[Parameter] = []
        self.norms: list[str] = []
        self.eps: list[float] = []
        self.size = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func)).strip("_")
        given = [*args, *(kwargs or {}).values()]
        known = any(id(a) in self.tensors for a in _flat(given))
        if known and (result is None or any(isinstance(r, Tensor) for r in _flat([result]))):
            handler: Callable[..., None] | None = getattr(self, f"_{name}", None)
            if handler is None:
                raise UnplannedOp(f"{name} is in no plan")
            try:
                handler(result, *args, **(kwargs or {}))
            except (TypeError, KeyError):
                raise UnplannedOp(f"{name} with these arguments is in no plan") from None
        return result

    def add_tensor(self, value: Tensor) -> int:
        """Return the number of a new tensor, also where an operation changed one in place."""
        height, width = value.shape[2:] if value.dim() == 4 else (1, 1)
        old = self.tensors.get(id(value))
        for alias in [key for key, number in self.tensors.items() if number == old]:
            self.tensors[alias] = len(self.shapes)
        self.tensors[id(value)] = len(self.shapes)
        self.shapes.append((height, width, value.shape[1]))
        self.alive.append(value)
        return len(self.shapes) - 1

    def _parameter(self, value: Tensor | None) -> int:
        if value is None:
            return -1
        offset = self.size
        self.parameters.append(Parameter(self.names[id(value)], tuple(value.shape), offset))
        self.size += value.numel()
        return offset

    def _add_op(self, kind: int, result: Tensor, x: Tensor, **values: int) -> None:
        source = self.tensors[id(x)]
        (h, w, c), target = self.shapes[source], self.add_tensor(result)
        ho, wo, o = self.shapes[target]
        self.ops.append(Op(kind, source, output=target, C=c, H=h, W=w, O=o, Ho=ho, Wo=wo, **values))

    def _alias(self, result: Tensor, x: Tensor) -> None:
        self.tensors[id(result)] = self.tensors[id(x)]
        self.alive.append(result)

    def _conv2d(
        self,
        result: Tensor,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> None:
        k, s, p = _side(weight.shape[2:]), _side(stride), _side(padding)
        if groups != 1 or _side(dilation) != 1 or k is None or s is None or p is None:
            raise UnplannedOp("a convolution with groups, dilation or unequal sides is in no plan")
        w, b = self._parameter(weight), self._parameter(bias)
        self._add_op(CONV, result, x, k=k, s=s, p=p, w=w, b=b)

    def _batch_norm(
        self,
        result: Tensor,
        x: Tensor,
        mean: Tensor | None,
        var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float | None = 0.1,
        eps: float = 1e-5,
    ) -> None:
        if mean is None or var is None or weight is None or bias is None:
            raise UnplannedOp("a batch norm without statistics or parameters is in no plan")
        stat = sum(2 * op.C for op in self.ops if op.kind == NORM)
        w, b = self._parameter(weight), self._parameter(bias)
        self._add_op(NORM, result, x, w=w, b=b, stat=stat)
        self.norms.append(self.names[id(mean)].rpartition(".")[0])
        self.eps.append(eps)

    def _relu(self, result: Tensor, x: Tensor, inplace: bool = False) -> None:
        self._add_op(RELU, result, x)

    def _add(self, result: Tensor, x: Tensor, other: Tensor) -> None:
        second = self.tensors[id(other)]
        if x.shape != other.shape:
            raise UnplannedOp("an addition of tensors of different shapes is in no plan")
        self._add_op(ADD, result, x, other=second)

    _iadd = _radd = _add

    def _cat(self, result: Tensor, parts: Sequence[Tensor], dim: int = 0) -> None:
        if len(parts) != 2 or dim != 1:
            raise UnplannedOp("a concatenation of other than two tensors is in no plan")
        self._add_op(CONCAT, result, parts[0], other=self.tensors[id(parts[1])])

    _concat = _concatenate = _cat

    def _mean(self, result: Tensor, x: Tensor, dim: Any = None, keepdim: bool = False) -> None:
        if tuple(dim or ()) not in ((2, 3), (-2, -1)):
            raise UnplannedOp("a mean over other than height and width is in no plan")
        self._mean_of_pixels(result, x)

    def _mean_of_pixels(self, result: Tensor, x: Tensor) -> None:
        h, w, _ = self.shapes[self.tensors[id(x)]]
        self._add_op(MEAN, result, x, k=h, s=w)

    def _adaptive_avg_pool2d(self, result: Tensor, x: Tensor, size: Any) -> None:
        if _side(size) != 1:
            raise UnplannedOp("an adaptive pooling to more than one pixel is in no plan")
        self._mean_of_pixels(result, x)

    def _pool(
        self,
        kind: int,
        result: Tensor,
        x: Tensor,
        size: Any,
        stride: Any,
        padding: Any,
        others_default: bool,
    ) -> None:
        if _side(padding) != 0 or not others_default:
            raise UnplannedOp("a pooling with padding or dilation is in no plan")
        k = _side(size)
        if k is None or (stride is not None and _side(stride) != k):
            raise UnplannedOp("a pooling with overlap is in no plan")
        self._add_op(kind, result, x, k=k, s=k)

    def _avg_pool2d(
        self,
        result: Tensor,
        x: Tensor,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> None:
        default = not ceil_mode and divisor_override is None
        self._pool(AVERAGE, result, x, size, stride, padding, default)

    def _max_pool2d(
        self,
        result: Tensor,
        x: Tensor,
        size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> None:
        default = _side(dilation) == 1 and not ceil_mode
        self._pool(MAX, result, x, size, stride, padding, default)

    def _flatten(self, result: Tensor, x: Tensor, start_dim: int = 0, end_dim: int = -1) -> None:
        if start_dim != 1 or end_dim != -1 or result.shape[1] != x.shape[1]:
            raise UnplannedOp("flattening of more than one pixel is in no plan")
        self._alias(result, x)

    def _linear(
        self, result: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> None:
        if x.dim() != 2:
            raise UnplannedOp("a linear layer of other than [batch, features] is in no plan")
        self._add_op(LINEAR, result, x, w=self._parameter(weight), b=self._parameter(bias))


def _flat(args: Sequence[Any]) -> list[Any]:
    return [b for a in args for b in (a if isinstance(a, list | tuple) else [a])]


def _side(value: Any) -> int | None:
    """Return the one length of both sides; None where they differ, or it is a word."""
    if isinstance(value, str):
        return None
    sides = set(value) if isinstance(value, Sequence) else {value}
    return int(sides.pop()) if len(sides) == 1 else None


def record(net: nn.Module, shape: Sequence[int]) -> Recorder:
    """Record the operations of a plain net on inputs of a shape (C, H, W).

    The net does not change, nor does the global random state.

    Raises:
        UnplannedOp: names an operation that no plan has.
    """
    if next(net.parameters(), None) is None:
        raise UnplannedOp("a net without parameters is in no plan")
    with torch.random.fork_rng(devices=[]):
        recorder, other = (_run(copy.deepcopy(net).train(mode), shape) for mode in (False, True))
    if recorder.ops != other.ops:
        raise UnplannedOp("a net that calls other operations in training is in no plan")
    if any(not _readers(recorder.ops, op.output) for op in recorder.ops[:-1]):
        raise UnplannedOp("an operation whose result nothing reads is in no plan")
    if any(m.momentum is None for m in net.modules() if isinstance(m, _BatchNorm)):
        raise UnplannedOp("a batch norm whose statistics are means of all batches is in no plan")
    used = [parameter.name for parameter in recorder.parameters]
    if len(set(used)) < len(used) or set(used) != {name for name, _ in net.named_parameters()}:
        raise UnplannedOp("a parameter that is used never or twice is in no plan")
    _fuse(recorder.ops)
    return recorder


def _run(net: nn.Module, shape: Sequence[int]) -> Recorder:
    x = torch.zeros(2, *shape, dtype=next(net.parameters()).dtype)
    recorder = Recorder(net)
    recorder.add_tensor(x)
    try:
        with torch.no_grad(), recorder:
            output = net(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if isinstance(error, ThreeRegimeError):
            raise
        raise UnplannedOp(f"a net that fails on {tuple(x.shape)} is in no plan") from error
    last = recorder.ops[-1].output if recorder.ops else None
    if not isinstance(output, Tensor) or recorder.tensors.get(id(output)) != last:
        raise UnplannedOp("an output that is not that of the last operation is in no plan")
    if output.dim() != 2:
        raise UnplannedOp("an output other than [batch, classes] is in no plan")
    return recorder


def _fuse(ops: list[Op]) -> None:
    """Apply ReLUs with norms, add residuals in convolutions, and let these read through norms."""
    readers = functools.partial(_readers, ops)
    for op in [op for op in ops if op.kind == RELU]:
        maker = _maker(ops, op.input)
        if maker and maker.kind == NORM and len(readers(op.input)) == 1:
            maker.relu, maker.output = 1, op.output
            ops.remove(op)
    for op in [op for op in ops if op.kind == ADD]:
        for mine, other in ((op.input, op.other), (op.other, op.input)):
            maker = _maker(ops, mine)
            if maker is None or maker.kind != CONV or maker.other >= 0:
                continue
            first = _maker(ops, other)
            made_before = other == 0 or (first and ops.index(first) < ops.index(maker))
            if made_before and len(readers(mine)) == 1:
                maker.other, maker.output = other, op.output
                ops.remove(op)
                break
    for index, op in enumerate(ops):
        users = readers(op.output)
        if op.kind == NORM and len(users) == 1 and users[0].kind == CONV:
            (user,) = users
            if user.input == op.output and user.other != op.output:
                op.lazy, user.norm = 1, index


def _readers(ops: Sequence[Op], tensor: int) -> list[Op]:
    return [op for op in ops if tensor in (op.input, op.other)]


def _maker(ops: Sequence[Op], tensor: int) -> Op | None:
    return next((op for op in ops if op.output == tensor), None)
