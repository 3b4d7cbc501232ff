"""Structure and initialisation of the residual networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lskd.models import ARCHS, ResNetArch, T2TResNetArch


def outputs_of(network: nn.Module, names: list[str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs of the named modules in one forward pass."""
    seen: dict[str, torch.Tensor] = {}
    for name in names:

        def keep(_module, _inputs, output, name=name):
            seen[name] = output

        network.get_submodule(name).register_forward_hook(keep)
    network(x)
    return seen


def test_t2t_features_have_the_shapes_of_tensor2tensor():
    with torch.device("meta"):
        network = ARCHS["resnet56_t2t"].build((3, 32, 32), 10)
        names = ["stem", "stage1", "stage2", "stage3"]
        features = outputs_of(network, names, torch.empty(2, 3, 32, 32))
    shapes = [(16, 32), (32, 32), (64, 16), (128, 8)]
    assert [tuple(features[n].shape) for n in names] == [(2, width, side, side) for width, side in shapes]


@pytest.mark.parametrize(("name", "blocks"), [("resnet20", 3), ("resnet110", 18), ("wrn_40_1", 6), ("resnet56_t2t", 9)])
def test_depth_is_spread_over_three_stages(name, blocks):
    with torch.device("meta"):
        network = ARCHS[name].build((3, 32, 32), 10)
    assert [len(network.stage1), len(network.stage2), len(network.stage3)] == [blocks] * 3


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "resnet50", "vgg8", "mobilenet_v2"])
def test_convolutions_start_from_kaiming_fan_out(name):
    torch.manual_seed(0)
    network = ARCHS[name].build((3, 32, 32), 10)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            sampling_error = 5 / math.sqrt(2 * module.weight.numel())
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=sampling_error)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


def test_wide_resnet_head_starts_without_bias():
    assert (ARCHS["wrn_16_2"].build((3, 32, 32), 10).head.bias == 0).all()


def test_wide_resnet_shortcut_takes_the_raw_input_unless_the_width_changes():
    with torch.device("meta"):
        narrow, wide = ARCHS["wrn_40_1"].build((3, 32, 32), 10), ARCHS["wrn_40_2"].build((3, 32, 32), 10)
    assert narrow.stage1[0].projection is None
    assert isinstance(wide.stage1[0].projection, nn.Conv2d)
    assert all(block.projection is None for block in wide.stage1[1:])


def test_t2t_penultimate_is_the_mean_of_raw_sums():
    """No batch norm or ReLU after the last block."""
    torch.manual_seed(0)
    network = T2TResNetArch(depth=8).build((3, 8, 8), 10)
    penultimate = []
    network.head.register_forward_pre_hook(lambda _module, inputs: penultimate.append(inputs[0]))
    stage3 = outputs_of(network, ["stage3"], torch.randn(4, 3, 8, 8))["stage3"]
    assert torch.equal(penultimate[0], stage3.mean((2, 3)))
    assert (stage3 < 0).any()


def test_t2t_block_by_definition():
    """BN, ReLU, then both branches; the projection is a convolution with batch norm and no ReLU."""
    torch.manual_seed(0)
    block = T2TResNetArch(depth=8).build((3, 8, 8), 10).stage2[0]
    x = torch.randn(4, 32, 8, 8)
    activated = F.relu(norm(x))
    shortcut = norm(F.conv2d(activated, block.projection[0].weight, stride=2))
    residual = F.conv2d(activated, block.conv1.weight, stride=2, padding=1)
    residual = F.conv2d(F.relu(norm(residual)), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(x), shortcut + residual)


def norm(x: torch.Tensor) -> torch.Tensor:
    """Batch norm of a fresh layer while training."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def test_bottleneck_block_by_definition():
    """A quarter of the channels inside; the 3x3 convolution has the stride; the shortcut has no ReLU of its own."""
    torch.manual_seed(0)
    network = ResNetArch(blocks=(1, 1, 1, 1), widths=(4, 8, 12, 16), bottleneck=True).build((3, 8, 8), 10)
    block = network.stage2[0]
    x = torch.randn(4, 16, 8, 8)
    residual = F.relu(norm(F.conv2d(x, block.conv1.weight)))
    residual = F.relu(norm(F.conv2d(residual, block.conv2.weight, stride=2, padding=1)))
    residual = norm(F.conv2d(residual, block.conv3.weight))
    shortcut = norm(F.conv2d(x, block.shortcut[0].weight, stride=2))
    assert residual.shape == (4, 32, 4, 4)
    assert block.conv2.weight.shape == (8, 8, 3, 3)
    torch.testing.assert_close(block(x), F.relu(residual + shortcut))


def test_t2t_projects_in_the_first_block_of_every_stage_even_where_the_shape_stays():
    with torch.device("meta"):
        network = T2TResNetArch(depth=14, stem=32).build((3, 32, 32), 10)
    for stage in (network.stage1, network.stage2, network.stage3):
        assert isinstance(stage[0].projection, nn.Sequential)
        assert stage[1].projection is None


def test_t2t_initial_weights_are_tensorflows():
    """Variance 1 / fan_in of convolutions, 4 / (fan_in + fan_out) of the head; truncated."""
    torch.manual_seed(0)
    network = T2TResNetArch(depth=8).build((3, 32, 32), 100)
    layers = [(m.weight, 1 / m.weight[0].numel()) for m in network.modules() if isinstance(m, nn.Conv2d)]
    for weight, variance in [*layers, (network.head.weight, 4 / (128 + 100))]:
        sampling_error = 5 / math.sqrt(2 * weight.numel())
        assert weight.std().item() == pytest.approx(math.sqrt(variance), rel=sampling_error)
        assert weight.abs().max() <= 2 * math.sqrt(variance) / 0.8796
    assert (network.head.bias == 0).all()
    assert all(m.momentum == 0.1 and m.eps == 1e-5 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


def test_resnet18_keeps_pytorchs_initialisation():
    torch.manual_seed(0)
    network = ARCHS["resnet18"].build((3, 32, 32), 10)
    weight = network.stage2[0].conv1.weight  # Kaiming uniform with a = sqrt(5): U(-b, b), b = 1 / sqrt(fan_in)
    bound = 1 / math.sqrt(64 * 9)
    assert 0.99 * bound < weight.abs().max() <= bound
