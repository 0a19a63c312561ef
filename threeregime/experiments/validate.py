"""Checks of a protocol's names against what there is: data sets, nets, pruning methods."""

from __future__ import annotations

from threeregime._fields import require
from threeregime.data import DATASETS, TRANSLATIONS
from threeregime.models import NETS
from threeregime.protocol import Protocol
from threeregime.pruning import METHODS


def validate(protocol: Protocol) -> Protocol:
    """Return the protocol, once everything that it names is known.

    Types, ranges and rules between fields are the protocol's own; it knows no registry.

    Raises:
        ThreeRegimeError: an unknown data set, net or pruning method, or a depth that its net
            cannot have.
    """
    data, net, method = protocol.data.name, protocol.net, protocol.pruning.method
    names = [*DATASETS, *TRANSLATIONS]
    known = data in names or data.startswith("folder:")
    require(known, "data.name", data, f"one of {', '.join(names)} or folder:PATH")
    require(net.name in NETS, "net.name", net.name, f"one of {', '.join(NETS)}")
    NETS[net.name].check_depth(net.depth)
    require(method in METHODS, "pruning.method", method, f"one of {', '.join(METHODS)}")
    return protocol
