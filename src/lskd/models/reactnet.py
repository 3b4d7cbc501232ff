"""ReActNet on ResNet-18: a network whose convolutions are binary (Liu et al. 2020, ReActNet; Liu et al. 2018, Bi-Real).

Activations become ±1 by signs around learnt thresholds (RSign), weights ±1 times a scale for each outgoing channel; the
first convolution, those of the shortcuts, and the head stay real. Written from the papers. They leave open what follows
the first convolution: here batch norm and, for large images, max-pooling, without a ReLU, so that both signs go into
the first binary convolution.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.models.convolutions import kaiming_fan_out_
from lskd.models.relu import plus
from lskd.models.taps import benchmark_taps


class ReActNet(nn.Module):
    """Stem, four stages of binary units at strides 1, 2, 2, 2, two for each block of ResNet-18, global average pooling,
    `head`.

    large_images: a 7x7 stem at stride 2 with max-pooling, as ImageNet's ResNet has; else 3x3 at stride 1.
    binary_weights: with False weights are real, as in the first of the paper's two steps of training. Parameters are
    the same ones.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        large_images: bool,
        binary_weights: bool,
    ) -> None:
        super().__init__()
        size, stride = (7, 2) if large_images else (3, 1)
        conv = nn.Conv2d(channels, widths[0], kernel_size=size, stride=stride, padding=size // 2, bias=False)
        pooling = [nn.MaxPool2d(kernel_size=3, stride=2, padding=1)] if large_images else []
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(widths[0]), *pooling)
        ins = (widths[0], *widths)
        stages = [
            binary_stage(ins[i], widths[i], 2 * blocks[i], stride=1 if i == 0 else 2, binary_weights=binary_weights)
            for i in range(4)
        ]
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.head = nn.Linear(widths[3], num_classes)

        kaiming_fan_out_(self)

        maps = ("stage1", "stage2", "stage3", "stage4")
        pre = [f"{stage}.{2 * n - 1}.activation:input" for stage, n in zip(maps, blocks, strict=True)]
        self.taps = benchmark_taps(maps, pre)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, w1, H/4, W/4), of small images (B, w1, H, W)
        x = self.stage1(x)  # (B, w1, H/4, W/4)
        x = self.stage2(x)  # (B, w2, H/8, W/8)
        x = self.stage3(x)  # (B, w3, H/16, W/16)
        x = self.stage4(x)  # (B, w4, H/32, W/32)
        return self.head(x.mean((2, 3)))  # (B, K)


class BinaryUnit(nn.Module):
    """RSign, 3x3 binary convolution, batch norm; plus the shortcut, which goes around each convolution (Bi-Real);
    RPReLU.

    Where the shape changes the shortcut is 2x2 average pooling (at stride 2), a real 1x1 convolution and batch norm.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, binary_weights: bool) -> None:
        super().__init__()
        self.sign = RSign(in_channels)
        make = BinaryConv2d if binary_weights else nn.Conv2d
        self.conv = make(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            pooling = [nn.AvgPool2d(stride, ceil_mode=True)] if stride > 1 else []
            real = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
            self.shortcut = nn.Sequential(*pooling, real, nn.BatchNorm2d(out_channels))
        self.activation = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(plus(self.bn(self.conv(self.sign(x))), self.shortcut(x)))


def binary_stage(in_channels: int, out_channels: int, units: int, stride: int, binary_weights: bool) -> nn.Sequential:
    """`units` binary units, of which the first changes the shape."""
    first = BinaryUnit(in_channels, out_channels, stride, binary_weights)
    rest = (BinaryUnit(out_channels, out_channels, 1, binary_weights) for _ in range(units - 1))
    return nn.Sequential(first, *rest)


class RSign(nn.Module):
    """sign(x - α) with a learnt threshold α for each channel (ReActNet, equation 1); gradient: `ApproximateSign`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return ApproximateSign.apply(x - self.threshold)


class RPReLU(nn.Module):
    """x - γ + ζ where x > γ, else β (x - γ) + ζ, with γ, ζ and β of each channel (ReActNet, equation 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels, 1, 1))
        self.zeta = nn.Parameter(torch.zeros(channels, 1, 1))
        self.beta = nn.Parameter(torch.full((channels,), 0.25))  # torch's own start of a PReLU

    def forward(self, x: Tensor) -> Tensor:
        return plus(F.prelu(x - self.gamma, self.beta.to(x.dtype)), self.zeta)


class ApproximateSign(torch.autograd.Function):
    """+1 where x > 0, else -1. Its gradient is that of a piecewise polynomial (Bi-Real, equation 5):

    dF/dx = 2 + 2x for -1 <= x < 0, 2 - 2x for 0 <= x < 1, and 0 elsewhere
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (2 - 2 * x.abs()).clamp_(min=0)


class BinaryWeights(torch.autograd.Function):
    """sign(w) · mean |w| over each outgoing channel's weights, (O, I, h, w), from the latent real weights w.

    Their gradient is straight through, clipped: that of the binary weights where |w| <= 1, and 0 elsewhere.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return signs(weight) * weight.abs().mean((1, 2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (weight,) = ctx.saved_tensors
        return gradient * (weight.abs() <= 1)


class BinaryConv2d(nn.Conv2d):
    """A convolution with the binary weights of its real ones."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, BinaryWeights.apply(self.weight), self.bias)


def signs(x: Tensor) -> Tensor:
    """+1 where x > 0, else -1."""
    return torch.where(x > 0, 1.0, -1.0).to(x.dtype)
