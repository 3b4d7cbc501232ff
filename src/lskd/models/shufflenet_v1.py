"""ShuffleNet (Zhang et al. 2018) for small images, in the variant of the CRD benchmark.

Source: HobbitLong/RepDistiller, models/ShuffleNetv1.py. What differs from the paper: a 1x1 stem at stride 1 and no
max-pooling, and a ReLU also behind the depthwise convolution. PyTorch's own initialisation of all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lskd.models.convolutions import depthwise, pointwise
from lskd.models.relu import ReLU, plus, relu
from lskd.models.taps import benchmark_taps


class ShuffleNetV1(nn.Module):
    """1x1 stem, three stages of shuffle units that each halve the image, global average pooling, `head`.

    The first pointwise convolution of all is not grouped: the stem has too few channels.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        groups: int,
        stem: int,
        widths: tuple[int, ...],
        blocks: tuple[int, ...],
    ) -> None:
        super().__init__()
        w1, w2, w3 = widths
        n1, n2, n3 = blocks
        self.stem = pointwise(channels, stem)
        self.stage1 = shuffle_stage(stem, w1, n1, groups, entry_groups=1)
        self.stage2 = shuffle_stage(w1, w2, n2, groups, entry_groups=groups)
        self.stage3 = shuffle_stage(w2, w3, n3, groups, entry_groups=groups)
        self.head = nn.Linear(w3, num_classes)

        maps = ("stage1", "stage2", "stage3")
        pre = [f"{stage}.{n - 1}.relu:input" for stage, n in zip(maps, blocks, strict=True)]
        self.taps = benchmark_taps(maps, pre)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H, W)
        x = self.stage1(x)  # (B, w1, H/2, W/2)
        x = self.stage2(x)  # (B, w2, H/4, W/4)
        x = self.stage3(x)  # (B, w3, H/8, W/8)
        return self.head(x.mean((2, 3)))  # (B, K)


class ShuffleUnit(nn.Module):
    """Grouped 1x1 convolution, channel shuffle, 3x3 depthwise, grouped 1x1, each with batch norm; a quarter of the
    outgoing channels in the middle.

    At stride 1 the input is added. At stride 2 the input, average-pooled, supplies the last channels of the output, and
    the convolutions the others.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, groups: int, entry_groups: int) -> None:
        super().__init__()
        made = out_channels if stride == 1 else out_channels - in_channels
        middle = made // 4
        self.entry_groups = entry_groups
        self.conv1 = nn.Conv2d(in_channels, middle, kernel_size=1, groups=entry_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2, self.bn2 = depthwise(middle, stride)
        self.conv3 = nn.Conv2d(middle, made, kernel_size=1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(made)
        self.pool = None if stride == 1 else nn.AvgPool2d(kernel_size=3, stride=stride, padding=1)
        self.relu = ReLU()  # a module: a tap reads its input

    def forward(self, x: Tensor) -> Tensor:
        made = relu(self.bn1(self.conv1(x)))
        made = relu(self.bn2(self.conv2(channel_shuffle(made, self.entry_groups))))
        made = self.bn3(self.conv3(made))
        return self.relu(plus(made, x) if self.pool is None else torch.cat([made, self.pool(x)], 1))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """(B, C, H, W) in the same shape: channel i of group j, j * C/groups + i before, becomes i * groups + j.

    The channels come last while they move, which keeps the images in channels_last. `torch.channel_shuffle` does so on
    a CPU only, and a reshape of (B, C, H, W) never: the layers behind it would have to turn the images back.
    """
    x = x.permute(0, 2, 3, 1).unflatten(-1, (groups, -1))  # (B, H, W, groups, C/groups)
    return x.transpose(-1, -2).flatten(-2).permute(0, 3, 1, 2)


def shuffle_stage(in_channels: int, out_channels: int, blocks: int, groups: int, entry_groups: int) -> nn.Sequential:
    """`blocks` shuffle units, of which the first changes the shape and has `entry_groups` in its first convolution."""
    first = ShuffleUnit(in_channels, out_channels, 2, groups, entry_groups)
    rest = (ShuffleUnit(out_channels, out_channels, 1, groups, groups) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
