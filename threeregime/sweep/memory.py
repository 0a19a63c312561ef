"""How many nets of a protocol fit into a device's memory."""

from __future__ import annotations

import torch
from torch import Tensor

from threeregime.errors import ThreeRegimeError
from threeregime.fleet import free_memory
from threeregime.models import net_builder
from threeregime.protocol import Protocol
from threeregime.sweep.plan import JobContext

WEIGHT_COPIES = 6
"""Weights, gradients, momentum, masks, and two more while a checkpoint is written."""
BACKWARD_FACTOR = 1.5
"""Memory of a backward pass and its libraries, relative to the saved activations."""
GIGABYTE = 1e9
SHARE = 0.8
"""Share of the free memory to use; the rest is for data, measurements and other programs."""


def max_members(protocol: Protocol, context: JobContext, workers: int) -> int:
    """Return how many nets of a protocol fit into one fleet: a power of two, at least 1.

    With powers of two a sweep that resumes with slightly more or less free memory plans the same
    fleets.

    Args:
        protocol: net, data and batch size.
        context: device, and folder of the data.
        workers: number of processes that share the memory.

    Raises:
        ThreeRegimeError: a single net takes more memory than the device has free.
    """
    batch = max(protocol.dense.batch_size, protocol.retraining.batch_size)
    free, needed = free_memory(context.device), net_bytes(protocol, batch, context)
    if needed > free:
        net = protocol.net
        raise ThreeRegimeError(
            f"net.depth = {net.depth}, net.width = {net.width:g} with a batch of {batch} takes "
            f"about {needed / GIGABYTE:.3g} GB, and {context.device} has {free / GIGABYTE:.3g} GB "
            "free: take a smaller net or batch, or a device with more"
        )
    members = int(SHARE * free / workers / needed)
    return 1 << max(0, members.bit_length() - 1)


def net_bytes(protocol: Protocol, batch_size: int, context: JobContext) -> float:
    """Return the bytes that training one net takes in float32.

    Raises:
        ThreeRegimeError: a batch or an augmentation that the data set does not allow.
    """
    task = context.load_task(protocol)
    task.check_batch(batch_size)
    with torch.device("meta"):
        net = net_builder(protocol.net, task)()
        activations = _activation_bytes(net, task.dummy_input(batch_size))
    weights = sum(p.numel() for p in net.parameters()) * 4
    return activations * BACKWARD_FACTOR + weights * WEIGHT_COPIES


def _activation_bytes(net: torch.nn.Module, inputs: Tensor) -> int:
    """Return the bytes that a forward pass saves for the backward pass."""
    saved: dict[int, Tensor] = {}

    def save(tensor: Tensor) -> Tensor:
        saved[id(tensor.untyped_storage())] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        net(inputs)
    return sum(tensor.numel() * tensor.element_size() for tensor in saved.values())
