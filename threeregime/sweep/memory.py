"""How many nets of a protocol a device has memory for."""

from __future__ import annotations

import torch
from torch import Tensor

from threeregime.data import load_task
from threeregime.fleet import free_memory
from threeregime.models import net_builder
from threeregime.protocol import Data, Net, Protocol
from threeregime.sweep.plan import JobContext

WEIGHT_COPIES = 6
"""Weights, gradients, momentum, masks, and twice again while a checkpoint is made."""
GRADIENTS = 1.5
"""What a backward pass and the libraries take beside the activations it was left."""
SHARE = 0.8
"""Of the free memory: the rest is for data, measuring, and others."""


def max_members(protocol: Protocol, context: JobContext, workers: int) -> int:
    """Most nets of a protocol in a fleet, from the device's free memory; at least 1.

    It is a power of two, so that a sweep which goes on another day, with a little more or less
    memory, plans the same fleets.

    Args:
        protocol: net, data and batch size.
        context: device, and where data lie.
        workers: processes that share the memory.
    """
    batch = max(protocol.dense.batch_size, protocol.retraining.batch_size)
    each = _bytes(protocol.net, protocol.data, batch, context)
    most = int(SHARE * free_memory(context.device) / workers / each)
    return 1 << max(0, most.bit_length() - 1)


def _bytes(net: Net, data: Data, batch: int, context: JobContext) -> float:
    """Bytes that one net takes in training in float32."""
    task = load_task(data, context.data_dir, context.download, context.device)
    with torch.device("meta"):
        plain = net_builder(net, task)()
        saved = _saved(plain, task.dummy_input(batch))
    weights = sum(p.numel() for p in plain.parameters()) * 4
    return saved * GRADIENTS + weights * WEIGHT_COPIES


def _saved(net: torch.nn.Module, inputs: Tensor) -> int:
    """Bytes that a pass forward keeps for the pass backward."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(inputs)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
