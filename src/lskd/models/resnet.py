"""ResNet-18, 34 and 50 (He et al. 2016) for small images: ImageNet's four stages and widths, behind a 3x3 stem without
max-pooling.

Sources: the code of Zhang & Sabuncu (2020) for 18 and 34, with PyTorch's own initialisation; HobbitLong/RepDistiller,
models/resnetv2.py, for the CRD benchmark's 50, with Kaiming's.
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.cifar_resnet import basic_stage, conv_stem
from lskd.models.convolutions import kaiming_fan_out_, shortcut
from lskd.models.relu import ReLU, plus, relu
from lskd.models.taps import benchmark_taps


class ResNet(nn.Module):
    """3x3 stem, four stages of basic or bottleneck blocks at strides 1, 2, 2, 2, global average pooling, `head`.

    Bottleneck stages are four times as wide as `widths` says: their 3x3 convolutions have those widths.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        bottleneck: bool = False,
        kaiming: bool = False,
    ) -> None:
        super().__init__()
        make_stage, times = (bottleneck_stage, 4) if bottleneck else (basic_stage, 1)
        n1, n2, n3, n4 = blocks
        w1, w2, w3, w4 = (times * width for width in widths)
        self.stem = conv_stem(channels, widths[0])
        self.stage1 = make_stage(widths[0], w1, n1, stride=1)
        self.stage2 = make_stage(w1, w2, n2, stride=2)
        self.stage3 = make_stage(w2, w3, n3, stride=2)
        self.stage4 = make_stage(w3, w4, n4, stride=2)
        self.head = nn.Linear(w4, num_classes)

        if kaiming:
            kaiming_fan_out_(self)

        maps = ("stage1", "stage2", "stage3", "stage4")
        pre = [f"{stage}.{n - 1}.relu:input" for stage, n in zip(maps, blocks, strict=True)]
        self.taps = benchmark_taps(maps, pre)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H, W)
        x = self.stage1(x)  # (B, w1, H, W)
        x = self.stage2(x)  # (B, w2, H/2, W/2)
        x = self.stage3(x)  # (B, w3, H/4, W/4)
        x = self.stage4(x)  # (B, w4, H/8, W/8)
        return self.head(x.mean((2, 3)))  # (B, K)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolution with batch norm, the first two to a quarter of the outgoing channels; ReLU after
    the first, the second, and the sum with the shortcut. The 3x3 convolution has the stride.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        middle = out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, middle, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, out_channels, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = ReLU()  # a module: a tap reads its input
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.bn1(self.conv1(x)))
        residual = relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        return self.relu(plus(residual, self.shortcut(x)))


def bottleneck_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` bottleneck blocks, of which the first changes the shape."""
    first = Bottleneck(in_channels, out_channels, stride)
    return nn.Sequential(first, *(Bottleneck(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))
