"""DenseNet-BC for small images (Huang et al. 2017, section 3 and Table 2): bottlenecks, and transitions that compress.

Stem, initialisation and the order of layers are as in the code of Zhang & Sabuncu (2020).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lskd.models.convolutions import kaiming_fan_out_
from lskd.models.relu import relu
from lskd.models.taps import benchmark_taps


class DenseNet(nn.Module):
    """3x3 stem to 2·growth channels, three dense blocks of (depth - 4) / 6 layers with transitions between them, batch
    norm and ReLU, global average pooling, `head`.

    A dense block's map is the raw concatenation, and before_relu is what the batch norm behind it makes of it, as in
    Wide ResNets.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, growth: int, compression: float) -> None:
        super().__init__()
        layers, width = (depth - 4) // 6, 2 * growth
        self.stem = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
        self.stage1 = dense_block(width, layers, growth)
        width += layers * growth
        self.transition1 = Transition(width, int(compression * width))
        width = int(compression * width)
        self.stage2 = dense_block(width, layers, growth)
        width += layers * growth
        self.transition2 = Transition(width, int(compression * width))
        width = int(compression * width)
        self.stage3 = dense_block(width, layers, growth)
        width += layers * growth
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, num_classes)

        kaiming_fan_out_(self)
        nn.init.zeros_(self.head.bias)

        self.taps = benchmark_taps(("stage1", "stage2", "stage3"), ("transition1.bn", "transition2.bn", "bn"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.stem(x))  # (B, w1, H, W)
        x = self.stage2(self.transition1(x))  # (B, w2, H/2, W/2)
        x = self.stage3(self.transition2(x))  # (B, w3, H/4, W/4)
        x = relu(self.bn(x))
        return self.head(x.mean((2, 3)))  # (B, K)


class DenseLayer(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to 4·growth channels; the same with a 3x3 one to `growth` channels, which are
    put behind the input's."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, kernel_size=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv1(relu(self.bn1(x)))
        return torch.cat([x, self.conv2(relu(self.bn2(new)))], 1)


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 convolution to fewer channels, 2x2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(self.conv(relu(self.bn(x))), 2)


def dense_block(in_channels: int, layers: int, growth: int) -> nn.Sequential:
    """`layers` dense layers; in_channels + layers·growth channels come out."""
    return nn.Sequential(*(DenseLayer(in_channels + i * growth, growth) for i in range(layers)))
