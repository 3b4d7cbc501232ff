"""Binary convolutions against the closed forms of their papers, transcribed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lskd.models import ReActNetArch
from lskd.models.reactnet import ApproximateSign, BinaryConv2d, BinaryUnit, BinaryWeights, RPReLU, RSign


def polynomial(x: float) -> float:
    """F of Bi-Real's equation 5, whose derivative takes the place of that of the sign."""
    if x < -1:
        return -1.0
    if x < 0:
        return 2 * x + x**2
    return 2 * x - x**2 if x < 1 else 1.0


POINTS = torch.tensor([-3.0, -1.5, -1.0, -0.7, -0.2, 0.0, 0.3, 0.9, 1.0, 1.2, 4.0], dtype=torch.float64)


def test_the_sign_has_the_gradient_of_the_piecewise_polynomial():
    x = POINTS.clone().requires_grad_()
    y = ApproximateSign.apply(x)
    assert y.tolist() == [-1.0] * 6 + [1.0] * 5
    (gradient,) = torch.autograd.grad(y, x, torch.full_like(x, 3.0))
    h = 1e-6
    expected = [3 * (polynomial(v + h) - polynomial(v - h)) / (2 * h) for v in POINTS.tolist()]
    torch.testing.assert_close(gradient, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)


def test_thresholds_of_signs_are_learnt_by_channel():
    """d/dα sign(x - α) is minus the same polynomial's derivative, summed over a channel."""
    sign = RSign(2).double()
    with torch.no_grad():
        sign.threshold.copy_(torch.tensor([0.5, -0.25])[:, None, None])
    x = torch.stack([POINTS, POINTS])[None, :, None]  # (1, 2, 1, 11)
    y = sign(x)
    assert torch.equal(y, torch.where(x > sign.threshold, 1.0, -1.0).double())
    (gradient,) = torch.autograd.grad(y.sum(), sign.threshold)
    h = 1e-6
    for channel, threshold in enumerate((0.5, -0.25)):
        slopes = [(polynomial(v - threshold + h) - polynomial(v - threshold - h)) / (2 * h) for v in POINTS.tolist()]
        assert gradient[channel].item() == pytest.approx(-sum(slopes), abs=1e-4)


def test_weights_are_signs_times_the_mean_of_their_channel_and_pass_gradients_where_small():
    weight = torch.tensor([[0.5, -0.25], [-2.0, 1.0]])[:, :, None, None].requires_grad_()
    binary = BinaryWeights.apply(weight)
    assert binary.flatten(1).tolist() == [[0.375, -0.375], [-1.5, 1.5]]
    (gradient,) = torch.autograd.grad(binary, weight, torch.tensor([[1.0, 2.0], [3.0, 4.0]])[:, :, None, None])
    assert gradient.flatten(1).tolist() == [[1.0, 2.0], [0.0, 4.0]]  # of |w| = 2 none


def test_rprelu_is_its_formula():
    activation = RPReLU(2)
    with torch.no_grad():
        for parameter, values in ((activation.gamma, [0.5, -1.0]), (activation.zeta, [0.1, 0.2])):
            parameter.copy_(torch.tensor(values)[:, None, None])
        activation.beta.copy_(torch.tensor([0.3, -0.4]))
    x = torch.linspace(-2, 2, 9).expand(1, 2, 1, 9)
    for c, (gamma, zeta, beta) in enumerate(((0.5, 0.1, 0.3), (-1.0, 0.2, -0.4))):
        expected = [v - gamma + zeta if v > gamma else beta * (v - gamma) + zeta for v in x[0, c, 0].tolist()]
        assert activation(x)[0, c, 0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("binary", [True, False])
def test_a_unit_is_sign_convolution_norm_shortcut_and_activation(binary):
    torch.manual_seed(0)
    unit = BinaryUnit(4, 6, 2, binary).eval()
    x = torch.randn(2, 4, 8, 8)
    weight = unit.conv.weight
    if binary:
        scale = weight.abs().mean((1, 2, 3), keepdim=True)
        weight = torch.where(weight > 0, scale, -scale)
    ones = torch.where(x > 0, 1.0, -1.0)
    residual = unit.bn(F.conv2d(ones, weight, stride=2, padding=1))
    _, real, norm = unit.shortcut
    expected = unit.activation(residual + norm(F.conv2d(F.avg_pool2d(x, 2), real.weight)))
    torch.testing.assert_close(unit(x), expected)


def test_only_inner_convolutions_are_binary_and_both_steps_have_the_same_parameters():
    with torch.device("meta"):
        both, activations = (ReActNetArch(binary_weights=binary).build((3, 64, 64), 10) for binary in (True, False))
    binary = [name for name, module in both.named_modules() if isinstance(module, BinaryConv2d)]
    assert len(binary) == 16 and all(name.endswith(".conv") and name.startswith("stage") for name in binary)
    assert not any(isinstance(module, BinaryConv2d) for module in activations.modules())
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (both, activations)]
    assert shapes[0] == shapes[1]
