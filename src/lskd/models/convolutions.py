"""Convolutions that several networks share."""

from __future__ import annotations

from torch import nn

from lskd.models.relu import ReLU


def pointwise(in_channels: int, out_channels: int) -> nn.Sequential:
    """1x1 convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(out_channels),
        ReLU(),
    )


def depthwise(channels: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """3x3 convolution of each channel by itself, and its batch norm."""
    conv = nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, groups=channels, bias=False)
    return conv, nn.BatchNorm2d(channels)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Around a block: the identity, or a 1x1 convolution with batch norm where the block changes the shape."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def kaiming_fan_out_(network: nn.Module) -> None:
    """Weights of all convolutions from N(0, 2 / (k^2 * out_channels)) (He et al. 2015), also of grouped ones.

    Batch norm starts at weight 1, bias 0 by itself.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
