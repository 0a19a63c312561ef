"""CUDA graphs: a training step recorded once and replayed without Python or single launches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3
"""Number of calls before the recording."""


class CudaGraphStep:
    """A function of tensors on a GPU that is recorded after a few calls and then replayed.

    The function changes tensors of its closure (parameters, gradients, momentum) in place and
    returns nothing; its inputs always have the same shapes.

    Args:
        function: the step. The first calls run it directly, so that libraries choose their kernels
            and allocate memory; one more call is recorded.
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
        """Run the step on these inputs."""
        if self.calls < WARM_UP:
            self.calls += 1
            self._warm_up(inputs)
            return
        graph = self.graph or self._record(inputs)
        for static, value in zip(self.inputs, inputs, strict=True):
            static.copy_(value, non_blocking=True)
        graph.replay()

    def _warm_up(self, inputs: Sequence[Tensor]) -> None:
        """Call the function on a side stream, which a later recording requires."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            self.function(*inputs)
        current.wait_stream(self.stream)

    def _record(self, inputs: Sequence[Tensor]) -> torch.cuda.CUDAGraph:
        self.inputs = [value.clone() for value in inputs]
        self.before()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.function(*self.inputs)
        return self.graph
