"""The nets of the paper, as plain modules."""

from threeregime.models.densenet import DenseNet
from threeregime.models.layers import Concat, initialise, scaled_channels
from threeregime.models.preresnet import PreResNet
from threeregime.models.registry import NETS, NetKind, net_builder
from threeregime.models.transformer import Transformer
from threeregime.models.vgg import VGG

__all__ = [
    "NETS",
    "VGG",
    "Concat",
    "DenseNet",
    "NetKind",
    "PreResNet",
    "Transformer",
    "initialise",
    "net_builder",
    "scaled_channels",
]
