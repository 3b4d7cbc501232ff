"""ShuffleNet V2 (Ma et al. 2018) for small images, in the variant of the CRD benchmark.

Source: HobbitLong/RepDistiller, models/ShuffleNetv2.py. What differs from the paper: a 1x1 stem at stride 1 and no
max-pooling. PyTorch's own initialisation of all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lskd.models.convolutions import depthwise, pointwise
from lskd.models.relu import ReLU, relu
from lskd.models.shufflenet_v1 import channel_shuffle
from lskd.models.taps import benchmark_taps


class ShuffleNetV2(nn.Module):
    """1x1 stem, three stages that each halve the image, a last 1x1 convolution, global average pooling, `head`."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        stem: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
        last: int,
    ) -> None:
        super().__init__()
        w1, w2, w3 = widths
        n1, n2, n3 = blocks
        self.stem = pointwise(channels, stem)
        self.stage1 = split_stage(stem, w1, n1)
        self.stage2 = split_stage(w1, w2, n2)
        self.stage3 = split_stage(w2, w3, n3)
        self.last = pointwise(w3, last)
        self.head = nn.Linear(last, num_classes)

        maps = ("stage1", "stage2", "stage3")
        pre = [f"{stage}.{n - 1}.relu:input" for stage, n in zip(maps, blocks, strict=True)]
        self.taps = benchmark_taps(maps, pre)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H, W)
        x = self.stage1(x)  # (B, w1, H/2, W/2)
        x = self.stage2(x)  # (B, w2, H/4, W/4)
        x = self.stage3(x)  # (B, w3, H/8, W/8)
        x = self.last(x)  # (B, last, H/8, W/8)
        return self.head(x.mean((2, 3)))  # (B, K)


class DownUnit(nn.Module):
    """Two branches that each halve the image and make half the channels, joined and shuffled.

    Left: 3x3 depthwise at stride 2, 1x1. Right: 1x1, 3x3 depthwise at stride 2, 1x1. Batch norm behind all of them,
    ReLU behind the 1x1 convolutions.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.left = nn.Sequential(*depthwise(in_channels, stride=2), *pointwise(in_channels, half))
        self.right = nn.Sequential(*pointwise(in_channels, half), *depthwise(half, stride=2), *pointwise(half, half))

    def forward(self, x: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.left(x), self.right(x)], 1), groups=2)


class SplitUnit(nn.Module):
    """The first half of the channels passes, the second goes through 1x1, 3x3 depthwise, 1x1; joined and shuffled.

    ReLU follows the first 1x1 convolution and, after the join, the second. There it leaves the half that passed as it
    is, since that comes out of ReLUs; and its input is the pre-activation of all channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2, self.bn2 = depthwise(half, stride=1)
        self.conv3 = nn.Conv2d(half, half, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.relu = ReLU()  # a module: a tap reads its input

    def forward(self, x: Tensor) -> Tensor:
        passed, made = x.chunk(2, dim=1)
        made = relu(self.bn1(self.conv1(made)))
        made = self.bn2(self.conv2(made))
        made = self.bn3(self.conv3(made))
        return channel_shuffle(self.relu(torch.cat([passed, made], 1)), groups=2)


def split_stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    """A unit that changes the shape, and `blocks` - 1 that do not."""
    first = DownUnit(in_channels, out_channels)
    return nn.Sequential(first, *(SplitUnit(out_channels) for _ in range(blocks - 1)))
