"""The CIFAR-10 tutorial network against TensorFlow's definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lskd.models import ARCHS
from lskd.models.alexnet import LocalResponseNorm, max_pool_same

TRUNCATED_STD = 0.87962566103423978  # of a standard normal cut at two standard deviations


def test_parameter_count_at_the_tutorials_crop():
    network = ARCHS["alexnet"].build((3, 24, 24), 10)
    assert sum(p.numel() for p in network.parameters()) == 1_068_298
    assert network.head.in_features == 192


@pytest.mark.parametrize(
    ("layer", "std", "bias"),
    [("conv1", 0.05, 0.0), ("conv2", 0.05, 0.1), ("fc1", 0.04, 0.1), ("fc2", 0.04, 0.1), ("head", 1 / 192, 0.0)],
)
def test_initial_weights_are_the_tutorials(layer, std, bias):
    torch.manual_seed(0)
    module = getattr(ARCHS["alexnet"].build((3, 24, 24), 10), layer)
    weights = module.weight
    sampling_error = 4 / math.sqrt(2 * weights.numel())
    assert weights.std().item() == pytest.approx(TRUNCATED_STD * std, rel=sampling_error)
    assert 1.9 * std < weights.abs().max() <= 2 * std * (1 + 1e-6)
    assert (module.bias == bias).all()


def test_layers_follow_the_tutorials_order():
    """Pooling before the first LRN, after the second."""
    torch.manual_seed(0)
    network = ARCHS["alexnet"].build((3, 24, 24), 10)
    x = torch.randn(2, 3, 24, 24)
    lrn = nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)
    h = lrn(pool_by_definition(F.relu(F.conv2d(x, network.conv1.weight, network.conv1.bias, padding=2))))
    h = pool_by_definition(lrn(F.relu(F.conv2d(h, network.conv2.weight, network.conv2.bias, padding=2))))
    h = F.relu(network.fc2(F.relu(network.fc1(h.reshape(2, -1)))))
    torch.testing.assert_close(network(x), network.head(h))


def pool_by_definition(x: torch.Tensor) -> torch.Tensor:
    """TensorFlow's SAME: pad by max((ceil(n/2) - 1) * 2 + 3 - n, 0) in all, the smaller half first."""
    padding = []
    for n in (x.shape[3], x.shape[2]):  # F.pad counts dimensions from the last
        total = max((math.ceil(n / 2) - 1) * 2 + 3 - n, 0)
        padding += [total // 2, total - total // 2]
    return F.max_pool2d(F.pad(x, padding, value=-math.inf), kernel_size=3, stride=2)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 7, 24])
@pytest.mark.parametrize("width", [1, 2, 5, 8])
def test_pooling_is_tensorflows_same(height, width):
    x = torch.randn(2, 3, height, width) - 5  # negative: padding with zeros would show
    pooled = max_pool_same(x)
    assert pooled.shape == (2, 3, math.ceil(height / 2), math.ceil(width / 2))
    assert torch.equal(pooled, pool_by_definition(x))


def test_lrn_is_tensorflows_definition():
    radius, bias, alpha, beta = 4, 1.5, 0.1, 0.75
    x = torch.randn(2, 12, 2, 3)
    expected = torch.empty_like(x)
    for c in range(12):
        window = x[:, max(c - radius, 0) : c + radius + 1]
        expected[:, c] = x[:, c] / (bias + alpha * window.square().sum(1)) ** beta
    torch.testing.assert_close(LocalResponseNorm(12, radius, bias, alpha, beta)(x), expected)


def test_lrn_equals_pytorchs_with_gradient():
    x = (30 * torch.randn(4, 64, 5, 5)).requires_grad_()  # large enough for the norm to matter
    upstream = torch.randn(4, 64, 5, 5)
    ours, reference = LocalResponseNorm(64)(x), nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)(x)
    torch.testing.assert_close(ours, reference)
    [gradient] = torch.autograd.grad(ours, x, upstream)
    [expected] = torch.autograd.grad(reference, x, upstream)
    torch.testing.assert_close(gradient, expected)


def test_lrn_is_computed_in_float32_under_autocast():
    norm = LocalResponseNorm(64)
    x = (10 * torch.randn(2, 64, 4, 4)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = norm(x)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, norm(x.float()).bfloat16())


def test_lrn_constants_stay_out_of_saved_weights():
    assert LocalResponseNorm(64).state_dict() == {}
