"""CUDA graphs: a step is recorded once and then replayed without Python or launches one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3


class CudaGraphStep:
    """A function of tensors on a GPU that is recorded after a few calls and replayed from then on.

    It works on what it closes over (parameters, gradients, momentum) in place, returns nothing, and
    its inputs keep their shapes.

    Args:
        function: what is to be done; called as it is at first, which lets libraries choose their
            kernels and allocate what they need, and then once more while it is recorded.
        before: called right before the recording, outside of it.
    """

    def __init__(
        self, function: Callable[..., None], before: Callable[[], None] = lambda: None
    ) -> None:
        self.function, self.before = function, before
        self.calls = 0
        self.stream = torch.cuda.Stream()
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: Sequence[Tensor] = ()

    def __call__(self, *inputs: Tensor) -> None:
        """Do it for these inputs."""
        if self.calls < WARM_UP:
            self.calls += 1
            self._aside(inputs)
            return
        if self.graph is None:
            self._record(inputs)
        assert self.graph is not None
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        self.graph.replay()

    def _aside(self, inputs: Sequence[Tensor]) -> None:
        """Call on a stream of its own, as a recording needs of what comes before it."""
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        with torch.cuda.stream(self.stream):
            self.function(*inputs)
        here.wait_stream(self.stream)

    def _record(self, inputs: Sequence[Tensor]) -> None:
        self.inputs = [given.clone() for given in inputs]
        self.before()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.function(*self.inputs)
