"""The nets of the paper by name, and the function that builds one for a task.

Nets are plain modules; :class:`threeregime.fleet.fleet.Fleet` turns any of them into a fleet. Such
a net consists of layers that treat all channels the same (convolution, batch norm, linear, pooling
over space, pointwise functions), joins channels by :class:`threeregime.models.layers.Concat` and
never mixes them by hand. To add one, write the module and give it an entry in :data:`NETS`.
Pruning covers its convolutions, unless it names other layers as its ``prunable``.
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


MAX_DEPTH = 1300
"""Most layers of a net; merely to list them takes seconds. The deepest published ResNet has 1202
(He et al., 2016)."""


@dataclass(frozen=True)
class NetKind:
    """One kind of net: ``build(depth, width, *task.net_sizes)``, depths, and the kind of examples.

    ``allows_depth`` tells which depths the net can have, and ``depths`` says so in words.
    """

    build: Callable[[int, float, int, int], nn.Module]
    allows_depth: Callable[[int], bool] = lambda depth: depth >= 1
    depths: str = "1 or more layers"
    reads: str = "images"

    def check_depth(self, depth: int) -> None:
        """Refuse a depth that the net cannot have with a ThreeRegimeError."""
        require(self.allows_depth(depth), "net.depth", depth, self.depths)
        require(depth <= MAX_DEPTH, "net.depth", depth, f"at most {MAX_DEPTH} layers")


NETS: dict[str, NetKind] = {
    "preresnet": NetKind(
        PreResNet,
        lambda depth: depth >= 8 and depth % 6 == 2,
        "a PreResNet has 6n+2 layers (8, 14, 20, ...)",
    ),
    "densenet": NetKind(
        DenseNet,
        lambda depth: depth >= 7 and depth % 3 == 1,
        "a DenseNet has 3n+4 layers (7, 10, ..., 40, ...)",
    ),
    "vgg": NetKind(
        VGG,
        lambda depth: depth in VGG.GROUPS,
        f"a VGG has {', '.join(map(str, VGG.GROUPS))} layers",
    ),
    "transformer": NetKind(
        Transformer,
        depths="a Transformer has 1 or more layers in its encoder and its decoder",
        reads="sentences",
    ),
}


def net_builder(net: Net, task: Task) -> Callable[[], nn.Module]:
    """Return a function that builds one plain net of a protocol for a task.

    Raises:
        ThreeRegimeError: the net is unknown, cannot have this depth, or does not read such
            examples.
    """
    require(net.name in NETS, "net.name", net.name, f"one of {', '.join(NETS)}")
    kind = NETS[net.name]
    kind.check_depth(net.depth)
    if kind.reads != task.kind:
        names = ", ".join(name for name, other in NETS.items() if other.reads == task.kind)
        raise ThreeRegimeError(
            f"net.name = {net.name!r} is not allowed: {task.name} holds {task.kind}: {names}"
        )
    return lambda: kind.build(net.depth, net.width, *task.net_sizes)
