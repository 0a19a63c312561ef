"""Inspection of a user's net: it is tried on a few examples, and the weights to prune are found."""

from __future__ import annotations

import copy
import inspect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from threeregime.advice.model import (
    PREFIX,
    AdaptedNet,
    ExampleTable,
    Forward,
    PrunableNet,
    copy_net,
    fold,
)
from threeregime.advice.user_data import Splits
from threeregime.data import TensorSplit, cast_inputs
from threeregime.errors import ThreeRegimeError, first_line

PROBE_EXAMPLES = 8
"""Number of examples in the forward passes that check a net."""
INPUT_NAMES = ("pixel_values", "input_ids", "inputs", "input", "image", "images", "x", "data")
"""Usual names of the one input that a net takes."""
RECURRENT = (nn.RNNBase, nn.RNNCellBase)
ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
MIN_ZEROS = 0.05
"""Share of weights that are zero already from which on the answer says so."""
SHOWN = 3
"""Number of names that an answer or an error lists."""


def inspect_net(
    model: nn.Module,
    splits: Splits,
    *,
    forward: Forward | None = None,
    keep: Sequence[str] = (),
    only: Sequence[str] | None = None,
    check_weights: bool = True,
) -> tuple[PrunableNet, Splits]:
    """Copy a net, check it on a few examples, and find the weights to prune.

    Args:
        model: the user's net.
        splits: training examples, and test examples or None.
        forward: function from a net and a batch of inputs to outputs; None: the net is called.
        keep: layers that stay dense, by name or pattern.
        only: layers to prune, the classifier included if it is named; None: all but it.
        check_weights: whether its weights have to be finite; not if checkpoints replace them.

    Returns:
        The net, and the splits with inputs in the form that it takes.

    Raises:
        ThreeRegimeError: the net does not take these inputs, its outputs are not one number per
            class, or it has no weights to prune.
    """
    unfolded = copy_net(model)
    plain, folded = fold(copy.deepcopy(unfolded)) if _computed(unfolded) else (unfolded, [])
    diverged = [n for n, p in plain.named_parameters() if not p.isfinite().all()]
    if check_weights and diverged:
        raise ThreeRegimeError(f"the net has diverged: {diverged[0]} is not finite")
    table, splits = bind_inputs(plain, splits, forward)
    train = splits[0]
    net = AdaptedNet(plain, forward, table, flat=train.targets.dim() == 1)
    # On copies: a pass in training mode changes the statistics of batch norm.
    outputs, calls, unused = _probe(copy.deepcopy(net).eval(), train)
    _probe(copy.deepcopy(net).train(), train)
    if check_weights and not outputs.isfinite().all():
        raise ThreeRegimeError("the net has diverged: its outputs are not finite")
    classifier = _classifier(plain, calls, outputs.shape[-1])
    weights = _choose_weights(plain, classifier, unused, keep, only)
    net.probabilities = _are_probabilities(outputs)
    notes = [
        _list_note("{} computed by masks or norms: made plain weights", folded),
        _zeros_note(plain, weights) if check_weights else "",
        _thaw(plain, weights, unused),
        _list_note("{} not used by the net: left as they are", sorted(unused)),
        _dense_note(plain, weights, classifier),
    ]
    prunable = PrunableNet(
        net,
        unfolded,
        tuple(PREFIX + name for name in weights),
        classifier,
        outputs.shape[-1],
        dict(Counter(weights.values())),
        tuple(filter(None, notes)),
    )
    return prunable, splits


def _computed(net: nn.Module) -> bool:
    """Return whether weights of a net are computed, by masks, weight norm or parametrizations."""
    return any(
        layer._forward_pre_hooks or nn.utils.parametrize.is_parametrized(layer)
        for layer in net.modules()
    )


def bind_inputs(
    net: nn.Module, splits: Splits, forward: Forward | None
) -> tuple[ExampleTable | None, Splits]:
    """Choose what a net is called with, if examples have several inputs by name.

    Returns:
        A table of all inputs and splits with the numbers of their examples; or None and splits with
        the only input that the net takes.

    Raises:
        ThreeRegimeError: the net takes none of the inputs, or the test examples lack one.
    """
    train, test = splits
    if train.fields is None:
        return None, splits
    chosen = list(train.fields)
    if forward is None and not all(name.isdigit() for name in chosen):
        parameters = inspect.signature(net.forward).parameters
        named = [name for name in chosen if name in parameters]
        usual = [name for name in INPUT_NAMES if name in chosen]
        chosen = named or usual[:1] or (chosen if len(chosen) == 1 else [])
        if not chosen:
            raise ThreeRegimeError(
                f"the net takes none of the inputs {', '.join(train.fields)} by name: give "
                "forward=lambda net, batch: net(batch[NAME])"
            )
    for split in filter(None, (train, test)):
        lacking = [name for name in chosen if name not in (split.fields or {})]
        if lacking:
            raise ThreeRegimeError(f"the test data have no {lacking[0]}: give what training has")
    parts = [s.fields or {} for s in (train, test) if s is not None]
    if len(chosen) == 1 and forward is None:
        splits = tuple(  # type: ignore[assignment]
            None if s is None else replace(s, inputs=(s.fields or {})[chosen[0]], fields=None)
            for s in (train, test)
        )
        return None, splits
    for name in chosen:
        shapes = {tuple(part[name].shape[1:]) for part in parts}
        if len(shapes) > 1:
            raise ThreeRegimeError(
                f"test and training inputs differ in shape: {' and '.join(map(str, shapes))}"
            )
    table = ExampleTable({name: torch.cat([part[name] for part in parts]) for name in chosen})
    count = len(train.targets)
    numbered = replace(train, inputs=torch.arange(count))
    if test is not None:
        test = replace(test, inputs=torch.arange(count, count + len(test.targets)))
    return table, (numbered, test)


def _probe(net: AdaptedNet, train: TensorSplit) -> tuple[Tensor, list[str], set[str]]:
    """Run a net on a few examples, and backwards.

    Returns:
        Its outputs; the names of its convolutions and linear layers in order of their calls; and
        the names of the parameters without a gradient, if any has one.
    """
    inputs = cast_inputs(train.inputs[:PROBE_EXAMPLES], torch.float32)
    labels = list(train.targets[:PROBE_EXAMPLES].shape)
    calls: list[str] = []
    net.net.requires_grad_(True)
    for name, layer in net.net.named_modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            layer.register_forward_hook(lambda *_, name=name: calls.append(name))
    try:
        with torch.enable_grad():
            outputs = net(inputs)
            if outputs.requires_grad:
                outputs.sum().backward()
    except ThreeRegimeError:
        raise
    except Exception as error:
        shapes = f"inputs of shape {list(inputs.shape)}, {inputs.dtype}"
        if net.table is not None:
            shapes = f"the inputs {', '.join(net.table.fields)}"
        raise ThreeRegimeError(
            f"the net cannot take {shapes}: {first_line(error)}{_integer_hint(inputs, error)}"
        ) from error
    _check_outputs(outputs, labels, net.training)
    unused = {n for n, p in net.net.named_parameters() if p.grad is None}
    used = {n for n, _ in net.net.named_parameters()} - unused
    return outputs.detach(), calls, unused if used else set()


def _integer_hint(inputs: Tensor, error: Exception) -> str:
    integer = not (inputs.is_floating_point() or inputs.is_complex())
    if integer and any(word in str(error) for word in ("dtype", "type", "Byte", "Long", "Int")):
        return " (the inputs are integers: give floats as in training, e.g. inputs / 255)"
    return ""


def _check_outputs(outputs: Tensor, labels: list[int], training: bool) -> None:
    """Refuse outputs that are not one number per class for each label."""
    shape = list(outputs.shape)
    if len(shape) == len(labels) == 2:
        raise ThreeRegimeError(
            f"the net's outputs are {shape} for labels of shape {labels}: if these are one-hot, "
            "give the number of each example's class, labels.argmax(1); several labels of one "
            "example are not supported"
        )
    if shape[:-1] != labels:
        mode = "in training mode " if training else ""
        expected = "[batch, classes]" if len(labels) == 1 else "[batch, positions, classes]"
        raise ThreeRegimeError(
            f"{mode}the net's outputs are {shape} for labels of shape {labels}: they must be one "
            f"tensor {expected}"
        )
    if shape[-1] < 2:
        raise ThreeRegimeError(
            "the net has one output: give it one of each class, two for a yes or no (regression "
            "is not supported)"
        )


def _are_probabilities(outputs: Tensor) -> bool:
    """Return whether outputs are those of a softmax: not negative, with sums of one."""
    sums = outputs.sum(dim=-1)
    return bool((outputs >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=1e-4))


def _classifier(net: nn.Module, calls: list[str], classes: int) -> str:
    """Return the name of the layer that separates the classes, or an empty text.

    It is the layer that is called last among those with one output per class; or the last linear
    layer that is called or, since a layer may be used without a call, defined.
    """
    layers = dict(net.named_modules())
    sizes = {n: getattr(layers[n], "out_features", None) or layers[n].out_channels for n in calls}
    last = [n for n in calls if sizes[n] == classes]
    linear = [n for n in calls if isinstance(layers[n], nn.Linear)]
    defined = [n for n, layer in layers.items() if isinstance(layer, nn.Linear)]
    return next((names[-1] for names in (last, linear, defined) if names), "")


def _choose_weights(
    net: nn.Module,
    classifier: str,
    unused: set[str],
    keep: Sequence[str],
    only: Sequence[str] | None,
) -> dict[str, str]:
    """Return the names of the weights to prune with the type of their layer.

    Raises:
        ThreeRegimeError: nothing is left to prune, or a name fits no layer.
    """
    layers = dict(net.named_modules())
    owners = {  # of each parameter, once; tied ones have one name
        n: n.rpartition(".")[0] for n, p in net.named_parameters() if p.dim() >= 2
    }
    ids = {id(p): n for n, p in net.named_parameters()}
    for patterns in (keep, only or ()):
        for pattern in patterns:
            if not any(_fits(pattern, name) for name in (*layers, *owners) if name):
                raise ThreeRegimeError(
                    f"{pattern!r} is no layer of the net: its layers with weights are "
                    f"{_shown(sorted(set(owners.values())))}"
                )
    chosen: dict[str, str] = {}
    for name, layer in layers.items():
        kind = type(layer).__name__
        if name == classifier and only is None:
            continue
        for weight in _layer_weights(layer, explicit=only is not None):
            chosen.setdefault(ids[id(layer._parameters[weight])], kind)
    tied = layers[classifier]._parameters.get("weight") if classifier else None
    if tied is not None and only is None:
        chosen.pop(ids[id(tied)], None)
    chosen = {
        name: kind
        for name, kind in chosen.items()
        if name not in unused
        and not any(_fits(pattern, name) for pattern in keep)
        and (only is None or any(_fits(pattern, name) for pattern in only))
    }
    if not chosen:
        raise ThreeRegimeError(
            "the net has no convolution or linear layer besides its classifier, or all of them "
            "are kept: there is nothing to prune (prune=[..] names layers, and may name the "
            "classifier)"
        )
    return chosen


def _fits(pattern: str, name: str) -> bool:
    """Return whether a pattern names a parameter, its layer or a part of the net around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _layer_weights(layer: nn.Module, explicit: bool) -> list[str]:
    """Return the names of a layer's own weights that pruning covers, or may cover if named."""
    own = [n for n, p in layer._parameters.items() if p is not None and p.dim() >= 2]
    if explicit:
        return own
    if isinstance(layer, nn.MultiheadAttention):
        return [n for n in own if n in ATTENTION_WEIGHTS]
    if isinstance(layer, RECURRENT):
        return [n for n in own if n.startswith("weight")]
    return [n for n in own if n == "weight"] if isinstance(layer, _ConvNd | nn.Linear) else []


def _thaw(net: nn.Module, weights: Mapping[str, str], unused: set[str]) -> str:
    """Let the weights to prune be trained, with the biases beside them; return a note on it.

    A net whose used parameters are all frozen is trained as a whole.
    """
    if not any(p.requires_grad for n, p in net.named_parameters() if n not in unused):
        net.requires_grad_(True)
        return "all weights were frozen: thawed, as pruned weights have to be retrained"
    owners = {name.rpartition(".")[0] for name in weights}
    frozen = [
        name
        for name, p in net.named_parameters()
        if not p.requires_grad and name.rpartition(".")[0] in owners
    ]
    for name, parameter in net.named_parameters():
        if name in frozen:
            parameter.requires_grad_(True)
    return _list_note("{} frozen: thawed, as pruned weights have to be retrained", frozen)


def _zeros_note(net: nn.Module, weights: Mapping[str, str]) -> str:
    parameters = dict(net.named_parameters())
    zeros = sum(int((parameters[n] == 0).sum()) for n in weights)
    share = zeros / sum(parameters[n].numel() for n in weights)
    return f"{share:.0%} of the weights were zero already" if share >= MIN_ZEROS else ""


def _dense_note(net: nn.Module, weights: Mapping[str, str], classifier: str) -> str:
    """Return a note on the layers that stay dense, if these hold most of the net's parameters."""
    sizes = {n: p.numel() for n, p in net.named_parameters()}
    rest = Counter({n: s for n, s in sizes.items() if n not in weights})
    if 2 * sum(rest.values()) <= sum(sizes.values()):
        return ""
    layers = dict(net.named_modules())
    (largest, count), *_ = rest.most_common(1)
    kind = type(layers[largest.rpartition(".")[0]]).__name__
    what = "the classifier" if largest.rpartition(".")[0] == classifier else kind
    return (
        f"{sum(rest.values()) / sum(sizes.values()):.0%} of the parameters stay dense, most of "
        f"them in {largest} ({what}, {count:,})"
    )


def _list_note(text: str, names: Sequence[str]) -> str:
    return text.format(f"{_shown(names)} {'were' if len(names) > 1 else 'was'}") if names else ""


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"
