"""A copy of a user's net as a function of one tensor, with the names of the weights to prune."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize, prune
from torch.nn.utils.spectral_norm import SpectralNorm, remove_spectral_norm
from torch.nn.utils.weight_norm import WeightNorm, remove_weight_norm
from torch.optim.swa_utils import AveragedModel

from threeregime.data import cast_inputs
from threeregime.errors import ThreeRegimeError, first_line

BATCH_COUNT = "num_batches_tracked"
"""A buffer of batch norm that fleets do not need."""
SMALLEST = 1e-12
"""Smaller probabilities count as this, which bounds the logarithm."""
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
PREFIX = "net."
"""Prefix of the names of a user's tensors in an :class:`AdaptedNet`."""

Forward = Callable[[nn.Module, Any], Any]
"""A user's function from a net and a batch of inputs to outputs."""
UserTraining = Callable[[nn.Module, int], Any]
"""A user's function that trains a net, in place, given a seed."""


class PlainBatchNorm(_BatchNorm):
    """Batch norm of inputs of any dimension: what SyncBatchNorm is in a single process."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Allow all."""


class ExampleTable:
    """Inputs by name, each [n, ...], of examples that have several; copies of a net share it."""

    def __init__(self, fields: Mapping[str, Tensor]) -> None:
        self.fields = {name: cast_inputs(t, torch.float32) for name, t in fields.items()}

    def rows(self, numbers: Tensor) -> dict[str, Tensor]:
        """Return the inputs of some examples, on the device of their numbers [batch]."""
        self.fields = {name: t.to(numbers.device) for name, t in self.fields.items()}
        return {name: t[numbers] for name, t in self.fields.items()}

    def __deepcopy__(self, memo: Any) -> ExampleTable:
        return self


class AdaptedNet(nn.Module):
    """A user's net as a function from inputs [batch, ...] to logits [batch, ..., classes].

    Args:
        net: the user's.
        forward: a function that calls it; None: it is called with the inputs.
        table: inputs of all examples, if these have several; the net's input is then the number
            of an example.
        flat: whether there is one label for each example.

    Attributes:
        probabilities: whether the net's outputs are probabilities, whose logarithm is taken.
    """

    def __init__(
        self,
        net: nn.Module,
        forward: Forward | None = None,
        table: ExampleTable | None = None,
        flat: bool = True,
    ) -> None:
        super().__init__()
        self.net = net
        self.call, self.table, self.flat = forward, table, flat
        self.probabilities = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits; those of Hugging Face's and torchvision's outputs are found."""
        given: Any = inputs if self.table is None else self.table.rows(inputs)
        if self.call is not None:
            outputs = self.call(self.net, given)
        elif isinstance(given, dict):
            positional = all(name.isdigit() for name in given)
            outputs = self.net(*given.values()) if positional else self.net(**given)
        else:
            outputs = self.net(given)
        logits = _find_logits(outputs)
        if self.flat and logits.dim() > 2 and logits.shape[1:].numel() == max(logits.shape[1:]):
            logits = logits.flatten(1)  # [batch, classes, 1, 1] of a convolution
        return logits.clamp(min=SMALLEST).log() if self.probabilities else logits


def _find_logits(outputs: Any) -> Tensor:
    """Return the logits among a net's outputs."""
    named = getattr(outputs, "logits", None)
    if named is None and isinstance(outputs, Mapping):
        named = outputs.get("logits")
    if named is None and isinstance(outputs, tuple | list) and len(outputs) == 1:
        named = outputs[0]
    logits = outputs if named is None else named
    if not isinstance(logits, Tensor):
        raise ThreeRegimeError(
            f"the net's outputs are {type(outputs).__name__}: they must be one tensor [batch, "
            "classes], or have one named logits; forward=lambda net, x: net(x)[0] takes the first "
            "of several"
        )
    return logits


@dataclass(frozen=True)
class PrunableNet:
    """A net to prune.

    Attributes:
        module: a copy of the user's, adapted, on the CPU, in float32.
        unfolded: the same copy before parametrizations (weight norm, masks) were made plain.
        prunable: names of the weights to prune, in ``module``.
        classifier: name of the layer that is not pruned; empty if there is none.
        classes: number of outputs.
        kinds: number of prunable weights by type of their layer.
        notes: sentences on what was done to the copy.
    """

    module: AdaptedNet
    unfolded: nn.Module
    prunable: tuple[str, ...]
    classifier: str
    classes: int
    kinds: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def plain(self) -> nn.Module:
        """The copy of the user's net."""
        return self.module.net

    @property
    def batch_norm(self) -> bool:
        """True if it has batch norm."""
        return any(isinstance(layer, _BatchNorm) for layer in self.module.modules())

    @property
    def weights(self) -> int:
        """Number of prunable weights."""
        parameters = dict(self.module.named_parameters())
        return sum(parameters[name].numel() for name in self.prunable)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the net inside of wrappers: compiled, parallel, or an average of weights."""
    while True:
        children = dict(model.named_children())
        inner = children.get("_orig_mod")
        wraps = isinstance(model, WRAPPERS) or type(model).__name__.startswith("ModelEma")  # timm
        inner = children.get("module") if inner is None and wraps else inner
        if inner is None:
            return model
        model = inner


def copy_net(model: nn.Module) -> nn.Module:
    """Return a copy of a model without wrappers, on the CPU and in float32.

    Raises:
        ThreeRegimeError: not a module, or one that cannot be trained or copied.
    """
    if not isinstance(model, nn.Module):
        raise ThreeRegimeError(
            f"a net of type {type(model).__name__} is not allowed: a torch.nn.Module"
        )
    model = unwrap(model)
    _check_trainable(model)
    try:
        # Weights that are computed (by masks, weight norm) cannot be copied but by value.
        memo: dict[int, Any] = {
            id(value): value.detach().clone()
            for layer in model.modules()
            for value in vars(layer).values()
            if isinstance(value, Tensor) and not value.is_leaf
        }
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.layout != torch.strided:  # sparse ones cannot be copied
                dense = tensor.detach().to_dense()
                kept = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(dense, tensor.requires_grad) if kept else dense
        net = copy.deepcopy(model, memo)
        for layer in net.modules():
            layer._compiled_call_impl = None
            _make_buffers(layer)
        net = net.cpu().float()
    except Exception as error:
        raise ThreeRegimeError(f"the net cannot be copied: {first_line(error)}") from error
    for layer in net.modules():
        if isinstance(layer, nn.SyncBatchNorm):
            layer.__class__ = PlainBatchNorm  # type: ignore[assignment]
        if isinstance(layer, _BatchNorm) and layer.momentum is None:
            layer.momentum = 0.1  # PyTorch's default: None needs the number of batches
    return net


def _check_trainable(model: nn.Module) -> None:
    """Refuse nets whose weights cannot be trained."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    if any(isinstance(p, nn.UninitializedParameter) for _, p in tensors):
        raise ThreeRegimeError("the net has lazy layers: call it once on a batch, then ask again")
    if isinstance(model, torch.jit.ScriptModule):
        raise ThreeRegimeError("the net is TorchScript: give the PyTorch net that it is made from")
    meta = [name for name, tensor in tensors if tensor.is_meta]
    if meta:
        raise ThreeRegimeError(
            f"the net's {meta[0]} is on the meta device, without values: load its weights first"
        )
    kinds = {type(layer).__module__ for layer in model.modules()}
    quantised = any(kind.startswith(("torch.ao.nn.quantized", "torch.nn.quantized", "torch.ao.nn"
                    ".intrinsic.quantized", "bitsandbytes")) for kind in kinds)  # fmt: skip
    if quantised or any(tensor.is_quantized for _, tensor in tensors):
        raise ThreeRegimeError(
            "the net is quantised: give the net of floats that it is made from (prune first)"
        )


def _make_buffers(layer: nn.Module) -> None:
    """Make a layer's parameters of integers buffers: optimizers refuse them."""
    for name, parameter in list(layer._parameters.items()):
        if parameter is not None and not (parameter.is_floating_point() or parameter.is_complex()):
            del layer._parameters[name]
            layer.register_buffer(name, parameter.detach().clone())


def fold(net: nn.Module) -> tuple[nn.Module, list[str]]:
    """Make the weights of a net plain, in place: masks and weight norm become part of them.

    Returns:
        The net, and the names of the weights that were computed.
    """
    folded = []
    net.eval()  # in training mode the power iterations of spectral norm go on
    for name, layer in list(net.named_modules()):
        for hook in list(layer._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                tensor = hook._tensor_name
                prune.remove(layer, tensor)
            elif isinstance(hook, WeightNorm | SpectralNorm):
                remove = remove_weight_norm if isinstance(hook, WeightNorm) else None
                tensor = hook.name
                (remove or remove_spectral_norm)(layer, tensor)
            else:
                continue
            folded.append(f"{name}.{tensor}".lstrip("."))
        if parametrize.is_parametrized(layer):
            tensors = {n: getattr(layer, n).detach().clone() for n in layer.parametrizations}
            # PyTorch's remove_parametrizations changes the class, which is the user's layer's too.
            layer.__class__ = parametrize.type_before_parametrizations(layer)
            del layer._modules["parametrizations"]
            for tensor, value in tensors.items():
                layer.register_parameter(tensor, nn.Parameter(value))
            folded += [f"{name}.{tensor}".lstrip(".") for tensor in tensors]
    return net, folded


def state_of(net: nn.Module) -> dict[str, Tensor]:
    """Return copies of a net's parameters and buffers by name, tied ones once, as for a fleet."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    return {
        n: t.detach().clone() for n, t in tensors.items() if n.rpartition(".")[2] != BATCH_COUNT
    }


def train_as_user(
    module: AdaptedNet,
    state: Mapping[str, Tensor],
    masks: Mapping[str, Tensor],
    training: UserTraining,
    seeds: Sequence[int],
) -> dict[str, Tensor]:
    """Train pruned copies of a net one by one by a user's function; pruned weights stay zero.

    Args:
        module: the net.
        state: tensors of all copies by name, [copies, ...].
        masks: masks of the weights to keep, bool [copies, ...], by name.
        training: the function.
        seeds: one for each copy.

    Returns:
        The state after the training.

    Raises:
        ThreeRegimeError: the function fails.
    """
    state = {name: tensor.clone() for name, tensor in state.items()}
    for number, seed in enumerate(seeds):
        net = copy.deepcopy(module).to(next(iter(state.values())).device)
        tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        kept = {name: masks[name][number] for name in masks}
        with torch.no_grad():
            for name, tensor in state.items():
                tensors[name].copy_(tensor[number])
            for name, mask in kept.items():
                tensors[name].mul_(mask)
        for name, mask in kept.items():
            tensors[name].register_hook(lambda gradient, mask=mask: gradient * mask)
        torch.manual_seed(seed)
        try:
            training(net.net, seed)
        except Exception as error:
            raise ThreeRegimeError(
                f"your retraining failed: {type(error).__name__}: {first_line(error)}"
            ) from error
        trained = {**dict(net.named_parameters()), **dict(net.named_buffers())}
        for name, tensor in state.items():
            value = trained[name].detach().to(tensor.device)
            tensor[number] = value * kept[name] if name in kept else value
    return state
