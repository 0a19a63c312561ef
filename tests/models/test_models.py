"""The nets: sizes as the paper counts them, shapes, and how their weights are drawn."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from threeregime.errors import ThreeRegimeError
from threeregime.models.preresnet import PreActBlock
from threeregime.models.registry import NETS, VGG, DenseNet, PreResNet


def convolutions(net: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]


def size(*tensors: torch.Tensor) -> int:
    return sum(tensor.numel() for tensor in tensors)


def test_the_papers_net_has_the_papers_size() -> None:
    net = PreResNet(depth=20, width=1.0, channels=3, classes=10)
    assert size(*net.parameters()) == 272_282
    assert size(*(conv.weight for conv in convolutions(net))) == 270_256
    assert all(conv.bias is None for conv in convolutions(net))


def test_the_digits_net_has_17414_parameters() -> None:
    assert size(*PreResNet(20, 0.25, channels=1, classes=10).parameters()) == 17_414


# Counted by hand, layer by layer; published: 1.0 M (Huang et al., 2017), 20 M (Appendix B.2).
@pytest.mark.parametrize(
    ("net", "published", "within"),
    [
        (DenseNet(depth=40, width=1.0, channels=3, classes=10), 1.0e6, 0.02),
        (VGG(depth=19, width=1.0, channels=3, classes=10), 20.0e6, 0.01),
    ],
)
def test_the_other_nets_have_their_published_sizes(
    net: nn.Module, published: float, within: float
) -> None:
    assert size(*net.parameters()) == pytest.approx(published, rel=within)
    assert all(conv.bias is None for conv in convolutions(net))


def test_a_dense_net_grows_by_its_layers() -> None:
    def expected(depth: int, growth: int, channels: int, classes: int) -> int:
        first = count = 16 * growth // 12
        total = 9 * channels * first
        for block in range(3):
            for _ in range((depth - 4) // 3):
                total += 2 * count + 9 * count * growth
                count += growth
            total += (2 * count + count * count) * (block < 2)  # a transition, but not at the end
        return total + 2 * count + (count + 1) * classes

    assert expected(40, 12, 3, 10) == 1_019_722
    for depth, width, growth in ((40, 1.0, 12), (16, 0.25, 3), (7, 2.0, 24)):
        net = DenseNet(depth, width, channels=3, classes=10)
        assert size(*net.parameters()) == expected(depth, growth, 3, 10)
        assert len(convolutions(net)) == depth - 1


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_is_convolutions_and_one_linear_layer(depth: int) -> None:
    net = VGG(depth, 0.25, channels=3, classes=10)
    kinds = convolutions(net)
    # the published nets end in three linear layers where this one has one
    assert len(kinds) == depth - 3
    assert {conv.out_channels for conv in kinds} == {16, 32, 64, 128}
    assert size(*net.linear.parameters()) == 128 * 10 + 10


@pytest.mark.parametrize(
    ("sides", "seen"),
    [
        ((32, 32), [(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)]),
        ((16, 16), [(16, 16), (8, 8), (4, 4), (2, 2), (2, 2)]),
        ((12, 12), [(12, 12), (6, 6), (3, 3), (3, 3), (3, 3)]),
        ((8, 16), [(8, 16), (4, 8), (2, 4), (2, 4), (2, 4)]),
        ((8, 8), [(8, 8), (4, 4), (2, 2), (2, 2), (2, 2)]),
    ],
)
def test_vgg_pools_while_two_pixels_are_left(
    sides: tuple[int, int], seen: list[tuple[int, int]]
) -> None:
    net = VGG(11, 0.05, channels=1, classes=10)
    shapes: list[tuple[int, ...]] = []
    for group in net.groups:
        group.register_forward_hook(lambda layer, given, out: shapes.append(tuple(out.shape[2:])))
    assert net(torch.zeros(2, 1, *sides)).shape == (2, 10)
    assert shapes == seen


@pytest.mark.parametrize("depth", [8, 14, 20, 32, 44])
def test_depth_counts_the_layers_on_the_main_road(depth: int) -> None:
    net = NETS["preresnet"].build(depth, 0.25, 1, 10)
    kinds = [layer.kernel_size for layer in convolutions(net)]
    assert kinds.count((3, 3)) + 1 == depth  # and the linear layer
    assert kinds.count((1, 1)) == 2  # shortcuts where the shape changes
    assert sum(isinstance(layer, PreActBlock) for layer in net.modules()) == (depth - 2) // 2


@pytest.mark.parametrize(
    ("name", "depths", "rule"),
    [
        ("preresnet", [-4, 0, 2, 7, 9, 11, 17, 18, 21, 111], r"6n\+2"),
        ("densenet", [-2, 0, 4, 8, 20, 41], r"3n\+4"),
        ("vgg", [0, 10, 12, 20], "11, 13, 16, 19"),
    ],
)
def test_other_depths_are_refused(name: str, depths: list[int], rule: str) -> None:
    for depth in depths:
        with pytest.raises(ThreeRegimeError, match=rf"net\.depth = {depth} is not .*{rule}"):
            NETS[name].check_depth(depth)


@pytest.mark.parametrize(
    ("width", "widths"),
    [
        (1.0, (16, 32, 64)),
        (0.25, (4, 8, 16)),
        (0.5, (8, 16, 32)),
        (2.0, (32, 64, 128)),
        (0.3, (5, 10, 19)),
        (0.01, (1, 1, 1)),
    ],
)
def test_width_scales_the_channels(width: float, widths: tuple[int, ...]) -> None:
    net = PreResNet(8, width, channels=3, classes=7)
    assert net.conv.out_channels == widths[0]
    assert tuple(block.conv2.out_channels for block in net.stages) == widths  # type: ignore[union-attr]
    assert net.linear.in_features == widths[-1]
    assert net(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def test_the_first_shapes_change_where_they_should() -> None:
    net = PreResNet(14, 0.25, channels=3, classes=10)
    shapes: list[tuple[int, ...]] = []
    for block in net.stages:
        block.register_forward_hook(lambda layer, given, out: shapes.append(tuple(out.shape[1:])))
    net(torch.zeros(2, 3, 32, 32))
    assert shapes == [(4, 32, 32)] * 2 + [(8, 16, 16)] * 2 + [(16, 8, 8)] * 2


def test_a_block_is_norm_relu_convolution_twice_beside_the_raw_input() -> None:
    torch.manual_seed(0)
    block = PreActBlock(3, 5, stride=2).double()
    for norm in (block.norm1, block.norm2):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.bias, -1, 1)
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)

    def normed(norm: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
        mean, var = x.mean(dim=(0, 2, 3)), x.var(dim=(0, 2, 3), correction=0)
        scale = norm.weight / (var + 1e-5).sqrt()
        return (x - mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]

    out = torch.conv2d(normed(block.norm1, x).clamp(min=0), block.conv1.weight, None, 2, 1)
    out = torch.conv2d(normed(block.norm2, out).clamp(min=0), block.conv2.weight, None, 1, 1)
    assert isinstance(block.shortcut, nn.Conv2d)
    out = out + torch.conv2d(x, block.shortcut.weight, None, 2)
    torch.testing.assert_close(block(x), out, rtol=1e-9, atol=1e-9)
    same = PreActBlock(5, 5, stride=1)
    assert isinstance(same.shortcut, nn.Identity)


@pytest.mark.parametrize(("name", "depth"), [("preresnet", 20), ("densenet", 22), ("vgg", 11)])
def test_convolutions_are_drawn_by_fan_out(name: str, depth: int) -> None:
    torch.manual_seed(0)
    net = NETS[name].build(depth, 1.0, 3, 10)
    for conv in convolutions(net):
        kernel, weight = conv.kernel_size[0], conv.weight.detach()
        expected = math.sqrt(2 / (kernel * kernel * conv.out_channels))
        # four standard errors of a standard deviation of so many draws
        assert weight.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * weight.numel()))
        assert abs(weight.mean().item()) < 4 * expected / math.sqrt(weight.numel())
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
