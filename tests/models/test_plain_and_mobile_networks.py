"""Structure and initialisation of VGG, MobileNetV2 and the ShuffleNets."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.models import ARCHS, MobileNetV2Arch, ShuffleNetV1Arch, ShuffleNetV2Arch
from lskd.models.mobilenet_v2 import LinearBottleneck
from lskd.models.relu import ReLU
from lskd.models.shufflenet_v1 import ShuffleUnit, channel_shuffle
from lskd.models.shufflenet_v2 import DownUnit, SplitUnit

pytestmark = pytest.mark.usefixtures("one_thread")


def norm(x: Tensor) -> Tensor:
    """Batch norm of a fresh layer while training."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def test_vgg_is_a_chain_of_convolutions_with_three_poolings():
    with torch.device("meta"):
        vgg8, vgg13 = (ARCHS[name].build((3, 32, 32), 100) for name in ("vgg8", "vgg13"))

    def kinds(network: nn.Module) -> str:
        letters = {nn.Conv2d: "c", nn.BatchNorm2d: "b", ReLU: "r", nn.MaxPool2d: "P", nn.Linear: "l"}
        return "".join(letters.get(type(module), "") for module in network.modules())

    assert kinds(vgg8) == "cbr" + 3 * "Pcbr" + "cbr" + "l"
    assert kinds(vgg13) == "cbrcbr" + 3 * "Pcbrcbr" + "cbrcbr" + "l"


def test_vgg_and_mobilenet_heads_start_small_and_without_bias():
    for name in ("vgg8", "mobilenet_v2"):
        torch.manual_seed(0)
        network = ARCHS[name].build((3, 32, 32), 100)
        weight = network.head.weight
        assert weight.std().item() == pytest.approx(0.01, rel=5 / math.sqrt(2 * weight.numel()))
        biases = [module.bias for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
        assert all((bias == 0).all() for bias in biases if bias is not None)


@pytest.mark.parametrize("name", ["shufflenet_v1", "shufflenet_v2"])
def test_shufflenets_keep_pytorchs_initialisation(name):
    """Kaiming uniform with a = sqrt(5): U(-b, b), b = 1 / sqrt(fan_in), which counts the channels of one group."""
    torch.manual_seed(0)
    for module in ARCHS[name].build((3, 32, 32), 100).modules():
        if isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.8 * bound < module.weight.abs().max() <= bound


def test_mobilenet_spreads_seventeen_bottlenecks():
    """The paper's (t, c, n, s) at half the width, with stride 1 for the second group."""
    with torch.device("meta"):
        network = ARCHS["mobilenet_v2"].build((3, 32, 32), 100)
    blocks = [module for module in network.modules() if isinstance(module, LinearBottleneck)]
    outputs = [8] + [12] * 2 + [16] * 3 + [32] * 4 + [48] * 3 + [80] * 3 + [160]
    assert [block.conv[-1].num_features for block in blocks] == outputs
    assert [i for i, block in enumerate(blocks) if block.conv[3].stride == (2, 2)] == [3, 6, 13]
    inputs = [16, *outputs[:-1]]
    assert [block.conv[3].in_channels for block in blocks] == [16] + [6 * width for width in inputs[1:]]


@pytest.mark.parametrize(("width", "last"), [(0.5, 1280), (1.0, 1280), (1.5, 1920)])
def test_mobilenet_widens_its_last_convolution_only_above_one(width, last):
    with torch.device("meta"):
        assert MobileNetV2Arch(width=width).build((3, 32, 32), 10).head.in_features == last


@pytest.mark.parametrize(("out_channels", "stride"), [(4, 1), (6, 1), (4, 2)])
def test_linear_bottleneck_by_definition(out_channels, stride):
    """No ReLU at the end; the input is added where the shape stays."""
    torch.manual_seed(0)
    block = LinearBottleneck(4, out_channels, stride, expansion=3)
    x = torch.randn(5, 4, 6, 6)
    expand, depthwise, project = (module.weight for module in block.conv if isinstance(module, nn.Conv2d))
    made = F.relu(norm(F.conv2d(x, expand)))
    made = F.relu(norm(F.conv2d(made, depthwise, stride=stride, padding=1, groups=12)))
    made = norm(F.conv2d(made, project))
    torch.testing.assert_close(block(x), x + made if (out_channels, stride) == (4, 1) else made)


def test_channel_shuffle_deals_the_groups_out():
    x = torch.arange(6.0).view(1, 6, 1, 1).expand(2, 6, 3, 4)
    assert channel_shuffle(x, groups=3)[1, :, 2, 3].tolist() == [0, 2, 4, 1, 3, 5]
    assert channel_shuffle(x, groups=2)[0, :, 0, 0].tolist() == [0, 3, 1, 4, 2, 5]


def test_channel_shuffle_moves_whole_channels_and_keeps_channels_last():
    x = torch.randn(2, 12, 3, 5)
    for layout in (torch.contiguous_format, torch.channels_last):
        shuffled = channel_shuffle(x.contiguous(memory_format=layout), groups=3)
        assert torch.equal(shuffled, F.channel_shuffle(x, 3))
    assert shuffled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
def test_shuffle_unit_by_definition(stride):
    torch.manual_seed(0)
    unit = ShuffleUnit(8, 24, 2, groups=2, entry_groups=2) if stride == 2 else ShuffleUnit(24, 24, 1, 2, 2)
    x = torch.randn(5, 8 if stride == 2 else 24, 6, 6)
    made = F.relu(norm(F.conv2d(x, unit.conv1.weight, groups=2)))
    middle = made.shape[1]
    assert middle == ((24 - 8) // 4 if stride == 2 else 24 // 4)
    made = F.channel_shuffle(made, 2)
    made = F.relu(norm(F.conv2d(made, unit.conv2.weight, stride=stride, padding=1, groups=middle)))
    made = norm(F.conv2d(made, unit.conv3.weight, groups=2))
    expected = made + x if stride == 1 else torch.cat([made, F.avg_pool2d(x, 3, stride=2, padding=1)], 1)
    torch.testing.assert_close(unit(x), F.relu(expected))


def test_only_the_first_pointwise_convolution_of_shufflenet_is_not_grouped():
    with torch.device("meta"):
        network = ShuffleNetV1Arch().build((3, 32, 32), 100)
    units = [module for module in network.modules() if isinstance(module, ShuffleUnit)]
    assert [unit.conv1.groups for unit in units] == [1] + [3] * 15
    assert [unit.entry_groups for unit in units] == [1] + [3] * 15
    assert {unit.conv3.groups for unit in units} == {3}
    assert [len(stage) for stage in (network.stage1, network.stage2, network.stage3)] == [4, 8, 4]


def test_split_unit_by_definition():
    """What passes is untouched: half of what comes out is half of what went in."""
    torch.manual_seed(0)
    unit = SplitUnit(8)
    x = torch.randn(5, 8, 6, 6).relu()  # as it comes out of the unit before
    made = F.relu(norm(F.conv2d(x[:, 4:], unit.conv1.weight)))
    made = norm(F.conv2d(made, unit.conv2.weight, padding=1, groups=4))
    made = F.relu(norm(F.conv2d(made, unit.conv3.weight)))
    out = unit(x)
    assert torch.equal(out[:, ::2], x[:, :4])
    torch.testing.assert_close(out[:, 1::2], made)


def test_down_unit_by_definition():
    torch.manual_seed(0)
    unit = DownUnit(4, 10)
    x = torch.randn(5, 4, 6, 6)
    depthwise, pointwise = (module.weight for module in unit.left if isinstance(module, nn.Conv2d))
    left = norm(F.conv2d(x, depthwise, stride=2, padding=1, groups=4))
    left = F.relu(norm(F.conv2d(left, pointwise)))
    enter, depthwise, pointwise = (module.weight for module in unit.right if isinstance(module, nn.Conv2d))
    right = F.relu(norm(F.conv2d(x, enter)))
    right = norm(F.conv2d(right, depthwise, stride=2, padding=1, groups=5))
    right = F.relu(norm(F.conv2d(right, pointwise)))
    out = unit(x)
    torch.testing.assert_close(out[:, ::2], left)
    torch.testing.assert_close(out[:, 1::2], right)


def test_shufflenet_v2_counts_its_first_unit_among_the_blocks():
    with torch.device("meta"):
        network = ShuffleNetV2Arch().build((3, 32, 32), 100)
    assert [len(stage) for stage in (network.stage1, network.stage2, network.stage3)] == [4, 8, 4]
    assert all(isinstance(stage[0], DownUnit) for stage in (network.stage1, network.stage2, network.stage3))
