"""The paper's nets as plain modules; :mod:`threeregime.fleet.fleet` turns any of them into a fleet.

A net that is to run as a fleet is made of layers that treat channels alike (convolution, batch
norm, linear, pooling over space, pointwise functions), joins channels by
:class:`threeregime.models.layers.Concat` and never mixes them by hand. To add one: write the module
and give it an entry in :data:`NETS`. What is pruned are its convolutions, unless it
names other layers as its ``prunable``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from threeregime._fields import require
from threeregime.errors import ThreeRegimeError
from threeregime.models.densenet import DenseNet
from threeregime.models.preresnet import PreResNet
from threeregime.models.transformer import Transformer
from threeregime.models.vgg import VGG

if TYPE_CHECKING:
    from threeregime.data import Task
    from threeregime.protocol import Net


def _six_n_plus_two(depth: int) -> None:
    if depth < 8 or (depth - 2) % 6:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a PreResNet has 6n+2 layers (8, 14, 20, ...)"
        )


def _three_n_plus_four(depth: int) -> None:
    if depth < 7 or (depth - 4) % 3:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a DenseNet has 3n+4 layers (7, 10, ..., 40, ...)"
        )


def _one_of_four(depth: int) -> None:
    if depth not in VGG.GROUPS:
        known = ", ".join(map(str, VGG.GROUPS))
        raise ThreeRegimeError(f"net.depth = {depth} is not allowed: a VGG has {known} layers")


def _at_least_one(depth: int) -> None:
    if depth < 1:
        raise ThreeRegimeError(
            f"net.depth = {depth} is not allowed: a Transformer has 1 or more layers a side"
        )


@dataclass(frozen=True)
class NetKind:
    """How to build one kind of net, and what it reads.

    ``build(depth, width, *sides)``, the sides being :attr:`threeregime.data.task.Task.net_sizes`.
    """

    build: Callable[[int, float, int, int], nn.Module]
    check_depth: Callable[[int], None]
    reads: str = "images"


NETS: dict[str, NetKind] = {
    "preresnet": NetKind(PreResNet, _six_n_plus_two),
    "densenet": NetKind(DenseNet, _three_n_plus_four),
    "vgg": NetKind(VGG, _one_of_four),
    "transformer": NetKind(Transformer, _at_least_one, reads="sentences"),
}


def net_builder(net: Net, data: Task) -> Callable[[], nn.Module]:
    """Function that builds one plain net of a protocol for a data set.

    Raises:
        ThreeRegimeError: an unknown net, a depth that it cannot have, or one that does not read
            what the data set holds.
    """
    require(net.name in NETS, "net.name", net.name, f"one of {', '.join(NETS)}")
    kind = NETS[net.name]
    kind.check_depth(net.depth)
    if kind.reads != data.kind:
        known = ", ".join(name for name, other in NETS.items() if other.reads == data.kind)
        raise ThreeRegimeError(
            f"net.name = {net.name!r} is not allowed: {data.name} holds {data.kind}: {known}"
        )
    return lambda: kind.build(net.depth, net.width, *data.net_sizes)
