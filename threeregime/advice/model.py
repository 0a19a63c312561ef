"""A copy of a user's net, with checks and the names of the weights to prune."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from threeregime.data import TensorSplit, cast_inputs
from threeregime.errors import ThreeRegimeError, first_line

PROBE_EXAMPLES = 8
"""Number of examples in the forward passes that check a net."""
BATCH_COUNT = "num_batches_tracked"
"""A buffer of batch norm that fleets do not need."""


@dataclass(frozen=True)
class PrunableNet:
    """A net to prune.

    Attributes:
        module: a copy of the user's, on the CPU, in float32.
        prunable: names of the weights to prune.
        classifier: name of the layer that is not pruned; empty if there is none.
        classes: number of outputs.
    """

    module: nn.Module
    prunable: tuple[str, ...]
    classifier: str
    classes: int

    @property
    def batch_norm(self) -> bool:
        """True if it has batch norm."""
        return any(isinstance(layer, _BatchNorm) for layer in self.module.modules())

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        parameters = dict(self.module.named_parameters())
        return sum(parameters[name].numel() for name in self.prunable)


def copy_net(model: nn.Module) -> nn.Module:
    """Return a trainable copy of a model, on the CPU and in float32.

    Raises:
        ThreeRegimeError: not a module, or one that cannot be copied or has lazy layers.
    """
    if not isinstance(model, nn.Module):
        raise ThreeRegimeError(
            f"a net of type {type(model).__name__} is not allowed: a torch.nn.Module"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        model = model.module
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise ThreeRegimeError("the net has lazy layers: call it once on a batch, then ask again")
    try:
        net = copy.deepcopy(model).cpu().float()
    except Exception as error:
        raise ThreeRegimeError(f"the net cannot be copied: {first_line(error)}") from error
    for norm in net.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is None:
            norm.momentum = 0.1  # PyTorch's default: None needs the number of batches
    if not any(p.requires_grad for p in net.parameters()):
        net.requires_grad_(True)
    return net


def inspect_net(model: nn.Module, train: TensorSplit, check_weights: bool = True) -> PrunableNet:
    """Copy a net, check it, and find the weights to prune.

    Args:
        model: the user's net.
        train: its training data.
        check_weights: whether its weights have to be finite; not if checkpoints replace them.

    Raises:
        ThreeRegimeError: the net does not take these inputs, its outputs are not one number per
            class, or it has no weights to prune.
    """
    net = copy_net(model)
    diverged = [n for n, p in net.named_parameters() if not p.isfinite().all()]
    if check_weights and diverged:
        raise ThreeRegimeError(f"the net has diverged: {diverged[0]} is not finite")
    inputs = cast_inputs(train.inputs[:PROBE_EXAMPLES], torch.float32)
    targets = train.targets[:PROBE_EXAMPLES]
    # On copies: a pass in training mode changes the statistics of batch norm.
    outputs, calls = _probe(copy.deepcopy(net).eval(), inputs, targets)
    _probe(copy.deepcopy(net).train(), inputs, targets)
    if check_weights and not outputs.isfinite().all():
        raise ThreeRegimeError("the net has diverged: its outputs are not finite")
    prunable, classifier = _prunable(net, calls)
    if not prunable:
        raise ThreeRegimeError(
            "the net has no convolution or linear layer besides its last linear one: there is "
            "nothing to prune"
        )
    return PrunableNet(net, prunable, classifier, outputs.shape[-1])


def is_grey(model: nn.Module) -> bool:
    """Return whether the first convolution of a net takes images of one channel."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    return first is not None and first.in_channels == 1


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of a net's parameters and buffers by name, tied ones once, as for a fleet."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        n: t.detach().clone() for n, t in tensors.items() if n.rpartition(".")[2] != BATCH_COUNT
    }


def load_weights(net: nn.Module, weights: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """Return the state of a net with the weights of a checkpoint.

    Args:
        net: a net of the same architecture.
        weights: a state_dict, or a mapping that holds one as "state_dict", "model_state_dict" or
            "model". The prefixes "module." and "_orig_mod." are removed from names.
        name: name of the checkpoint in errors.

    Raises:
        ThreeRegimeError: another architecture, or no state_dict.
    """
    for key in ("state_dict", "model_state_dict", "model"):
        inner = weights.get(key) if isinstance(weights, Mapping) else None
        if isinstance(inner, Mapping):
            weights = inner
    if not isinstance(weights, Mapping) or not all(isinstance(n, str) for n in weights):
        raise ThreeRegimeError(f"{name} holds no weights by name: save net.state_dict()")
    for prefix in ("module.", "_orig_mod."):
        if weights and all(n.startswith(prefix) for n in weights):
            weights = {n.removeprefix(prefix): t for n, t in weights.items()}
    mismatches = _mismatches(net, weights)
    if mismatches:
        raise ThreeRegimeError(f"{name} is of another architecture: {'; '.join(mismatches)}")
    net = copy.deepcopy(net)
    net.load_state_dict(dict(weights), strict=False)
    return state_of(net)


def _mismatches(net: nn.Module, weights: Mapping[str, Any]) -> list[str]:
    """Return the first missing, unknown and differently shaped tensor of a checkpoint, in words."""
    tensors = net.state_dict(keep_vars=True)
    # A file may hold only one of tied weights.
    loaded = {id(tensors[n]) for n in weights if n in tensors}
    missing = [
        f"it lacks {n}"
        for n, t in tensors.items()
        if n not in weights and id(t) not in loaded and BATCH_COUNT not in n
    ]
    unknown = [f"{n} is not in the net" for n in weights if n not in tensors]
    shapes = []
    for n, t in weights.items():
        expected = tensors.get(n)
        if isinstance(expected, Tensor) and getattr(t, "shape", None) != expected.shape:
            shape = list(t.shape) if hasattr(t, "shape") else "no tensor"
            shapes.append(f"{n} is {shape}, in the net {list(expected.shape)}")
    return [lines[0] for lines in (missing, unknown, shapes) if lines]


def _probe(net: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[Tensor, list[str]]:
    """Return the outputs of a net, and the names of its linear layers in order of their calls."""
    calls: list[str] = []
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    try:
        with torch.no_grad():
            outputs = net(inputs)
    except Exception as error:
        raise ThreeRegimeError(
            f"the net cannot take inputs of shape {list(inputs.shape)}, {inputs.dtype}: "
            f"{first_line(error)}"
        ) from error
    labels = list(targets.shape)
    shape = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or shape[:-1] != labels:
        mode = "in training mode " if net.training else ""
        expected = "[batch, classes]" if targets.dim() == 1 else "[batch, places, classes]"
        raise ThreeRegimeError(
            f"{mode}the net's outputs are {shape} for labels of shape {labels}: they must be one "
            f"tensor {expected}"
        )
    if outputs.shape[-1] < 2:
        raise ThreeRegimeError(
            "the net has one output: give it one of each class, two for a yes or no"
        )
    return outputs, calls


def _prunable(net: nn.Module, calls: list[str]) -> tuple[tuple[str, ...], str]:
    """Return the names of the weights to prune, and of the classifier.

    Args:
        net: the net.
        calls: names of the linear layers in the order of their calls.
    """
    layers = dict(net.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    # A layer may be used without a call; the last one that was defined is then a guess.
    classifier = calls[-1] if calls else linear[-1] if linear else ""
    weights: list[Any] = []
    for name, layer in layers.items():
        if isinstance(layer, _ConvNd | nn.Linear) and name != classifier:
            weights.append(layer._parameters.get("weight"))
        if isinstance(layer, nn.MultiheadAttention):
            parts = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            weights += [layer._parameters.get(part) for part in parts]
    tied = layers[classifier]._parameters.get("weight") if classifier else None
    ids = {id(p) for p in weights if p is not None and p is not tied}
    return tuple(n for n, p in net.named_parameters() if id(p) in ids), classifier
