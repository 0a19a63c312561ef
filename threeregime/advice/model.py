"""The net that is asked about: a copy of any module, looked over, with the weights to prune."""

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
from threeregime.errors import ThreeRegimeError

PROBED = 8
"""Examples that a net is tried with before anything is trained."""
COUNT = "num_batches_tracked"
"""What batch norm counts, which a fleet does without."""


@dataclass(frozen=True)
class PrunableNet:
    """A net to be pruned.

    Attributes:
        net: a copy of the user's, on the CPU, in float32.
        prunable: names of the weights that pruning may remove.
        classifier: name of the layer that is kept whole; empty where there is none.
        classes: number of outputs.
    """

    net: nn.Module
    prunable: tuple[str, ...]
    classifier: str
    classes: int

    @property
    def batch_norm(self) -> bool:
        """Whether it has batch norm."""
        return any(isinstance(layer, _BatchNorm) for layer in self.net.modules())

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        named = dict(self.net.named_parameters())
        return sum(named[name].numel() for name in self.prunable)


def copy_net(model: nn.Module) -> nn.Module:
    """A copy that can be trained, on the CPU and in float32; the model itself is left alone.

    Raises:
        ThreeRegimeError: no module, or one that cannot be copied or was never initialised.
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
        raise ThreeRegimeError(f"the net cannot be copied: {_line(error)}") from error
    for norm in net.modules():
        if isinstance(norm, _BatchNorm) and norm.momentum is None:
            norm.momentum = 0.1  # PyTorch's default: a mean over all batches needs their count
    if not any(p.requires_grad for p in net.parameters()):
        net.requires_grad_(True)
    return net


def inspect_net(model: nn.Module, train: TensorSplit, own: bool = True) -> PrunableNet:
    """Look a net over.

    Args:
        model: the user's.
        train: what it is to learn.
        own: whether its own weights are what is asked about, and have to be finite.

    Raises:
        ThreeRegimeError: it does not take these inputs, its outputs are not one number a class, or
            it has no weights to prune.
    """
    net = copy_net(model)
    broken = [n for n, p in net.named_parameters() if not p.isfinite().all()]
    if own and broken:
        raise ThreeRegimeError(f"the net has diverged: {broken[0]} is not finite")
    inputs = cast_inputs(train.inputs[:PROBED], torch.float32)
    # Probed are copies of the copy: in training mode statistics change.
    outputs, called = _probed(copy.deepcopy(net).eval(), inputs, train.truth[:PROBED])
    _probed(copy.deepcopy(net).train(), inputs, train.truth[:PROBED])
    if own and not outputs.isfinite().all():
        raise ThreeRegimeError("the net has diverged: its outputs are not finite")
    prunable, classifier = _prunable(net, called)
    if not prunable:
        raise ThreeRegimeError(
            "the net has no convolution or linear layer besides its last linear one: there is "
            "nothing to prune"
        )
    return PrunableNet(net, prunable, classifier, outputs.shape[-1])


def is_grey(model: nn.Module) -> bool:
    """Whether a net wants pictures of one channel: its first convolution says so."""
    layers = model.modules() if isinstance(model, nn.Module) else ()
    first = next((layer for layer in layers if isinstance(layer, nn.Conv2d)), None)
    return first is not None and first.in_channels == 1


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """Copies of a net's parameters and statistics by name, tied ones once, as fleets want them."""
    named = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {n: t.detach().clone() for n, t in named.items() if n.rpartition(".")[2] != COUNT}


def load_weights(net: nn.Module, weights: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The state of a net with the weights of a checkpoint.

    Args:
        net: of whose architecture the checkpoint is.
        weights: its state_dict; one under the key "state_dict", "model_state_dict" or "model" is
            found, and "module." or "_orig_mod." before every name is left out.
        name: the checkpoint's, for messages.

    Raises:
        ThreeRegimeError: it is of another architecture, or no state_dict.
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
    own = net.state_dict(keep_vars=True)
    # Of tied weights a file may hold one alone.
    there = {id(own[n]) for n in weights if n in own}
    lacking = [
        n for n, t in own.items() if n not in weights and id(t) not in there and COUNT not in n
    ]
    unknown = [n for n in weights if n not in own]
    shapes = {
        n: (list(own[n].shape), getattr(t, "shape", None))
        for n, t in weights.items()
        if n in own and isinstance(own[n], Tensor)
    }
    unlike = [n for n, (here, given) in shapes.items() if given is None or here != list(given)]
    faults = [
        *([f"it lacks {lacking[0]}"] if lacking else []),
        *([f"{unknown[0]} is not in the net"] if unknown else []),
        *(
            [f"{unlike[0]} is {_shape(shapes[unlike[0]][1])}, in the net {shapes[unlike[0]][0]}"]
            if unlike
            else []
        ),
    ]
    if faults:
        raise ThreeRegimeError(f"{name} is of another architecture: {'; '.join(faults)}")
    made = copy.deepcopy(net)
    made.load_state_dict(dict(weights), strict=False)
    return state_of(made)


def _shape(given: Any) -> str:
    return "no tensor" if given is None else str(list(given))


def _probed(net: nn.Module, inputs: Tensor, truth: Tensor) -> tuple[Tensor, list[str]]:
    """Outputs of a net, and the linear layers that it called, in that order."""
    called: list[str] = []
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda *_, name=name: called.append(name))
    try:
        with torch.no_grad():
            outputs = net(inputs)
    except Exception as error:
        raise ThreeRegimeError(
            f"the net cannot take inputs of shape {list(inputs.shape)}, {inputs.dtype}: "
            f"{_line(error)}"
        ) from error
    places = list(truth.shape)
    given = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if not isinstance(outputs, Tensor) or given[:-1] != places:
        mode = "in training mode " if net.training else ""
        wanted = "[batch, classes]" if truth.dim() == 1 else "[batch, places, classes]"
        raise ThreeRegimeError(
            f"{mode}the net's outputs are {given} for labels of shape {places}: they must be one "
            f"tensor {wanted}"
        )
    if outputs.shape[-1] < 2:
        raise ThreeRegimeError(
            "the net has one output: give it one of each class, two for a yes or no"
        )
    return outputs, called


def _prunable(net: nn.Module, called: list[str]) -> tuple[tuple[str, ...], str]:
    """Weights of convolutions and linear layers but the last that is called, and its name."""
    layers = dict(net.named_modules())
    linear = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)]
    # One may be used without being called; the last that was made is then a guess.
    classifier = called[-1] if called else linear[-1] if linear else ""
    found: list[Any] = []
    for name, layer in layers.items():
        if isinstance(layer, _ConvNd | nn.Linear) and name != classifier:
            found.append(layer._parameters.get("weight"))
        if isinstance(layer, nn.MultiheadAttention):
            parts = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
            found += [layer._parameters.get(part) for part in parts]
    kept = layers[classifier]._parameters.get("weight") if classifier else None
    wanted = {id(p) for p in found if p is not None and p is not kept}
    return tuple(n for n, p in net.named_parameters() if id(p) in wanted), classifier


def _line(error: BaseException) -> str:
    """An error's first line."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
