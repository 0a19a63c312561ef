"""Check the names in a protocol: data set, net and pruning method."""

from __future__ import annotations

from threeregime._fields import require
from threeregime.data import DATASETS, TRANSLATIONS
from threeregime.models import NETS
from threeregime.protocol import Protocol
from threeregime.pruning import METHODS


def validate(protocol: Protocol) -> Protocol:
    """Return a protocol if everything that it names is registered.

    The protocol itself checks types and ranges; it does not know the registries.

    Raises:
        ThreeRegimeError: an unknown data set, net or pruning method, or an impossible depth.
    """
    data, net, method = protocol.data.name, protocol.net, protocol.pruning.method
    names = [*DATASETS, *TRANSLATIONS]
    known = data in names or data.startswith("folder:")
    require(known, "data.name", data, f"one of {', '.join(names)} or folder:PATH")
    require(net.name in NETS, "net.name", net.name, f"one of {', '.join(NETS)}")
    NETS[net.name].check_depth(net.depth)
    require(method in METHODS, "pruning.method", method, f"one of {', '.join(METHODS)}")
    return protocol
