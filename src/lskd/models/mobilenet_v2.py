"""MobileNetV2 (Sandler et al. 2018) for small images, in the variant of the CRD benchmark.

Source: HobbitLong/RepDistiller, models/mobilenetv2.py. What differs from the paper: ReLU for ReLU6, the second group of
bottlenecks at stride 1 instead of 2, no dropout, widths that are cut and not rounded to multiples of 8, and a 1x1
convolution in the first bottleneck too, which expands nothing.
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.cifar_resnet import conv_stem
from lskd.models.convolutions import depthwise, kaiming_fan_out_, pointwise
from lskd.models.relu import ReLU, plus
from lskd.models.taps import benchmark_taps


class MobileNetV2(nn.Module):
    """3x3 stem at stride 2, four stages of linear bottlenecks, a last 1x1 convolution, global average pooling, `head`.

    `width` multiplies all channels, those of the last convolution only if above 1. Stages end on a linear bottleneck:
    there is no ReLU whose input could be a pre-activation, and the benchmark takes the maps themselves.
    """

    def __init__(self, channels: int, num_classes: int, expansion: int, width: float) -> None:
        super().__init__()
        stem, w1, w2, w3, w4, w5, w6, w7 = (int(width * base) for base in (32, 16, 24, 32, 64, 96, 160, 320))
        last = int(max(width, 1.0) * 1280)
        self.stem = conv_stem(channels, stem, stride=2)
        self.stage1 = nn.Sequential(
            *bottlenecks(stem, w1, 1, stride=1, expansion=1),
            *bottlenecks(w1, w2, 2, stride=1, expansion=expansion),
        )
        self.stage2 = nn.Sequential(*bottlenecks(w2, w3, 3, stride=2, expansion=expansion))
        self.stage3 = nn.Sequential(
            *bottlenecks(w3, w4, 4, stride=2, expansion=expansion),
            *bottlenecks(w4, w5, 3, stride=1, expansion=expansion),
        )
        self.stage4 = nn.Sequential(
            *bottlenecks(w5, w6, 3, stride=2, expansion=expansion),
            *bottlenecks(w6, w7, 1, stride=1, expansion=expansion),
        )
        self.last = pointwise(w7, last)
        self.head = nn.Linear(last, num_classes)

        kaiming_fan_out_(self)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

        maps = ("stage1", "stage2", "stage3", "stage4")
        self.taps = benchmark_taps(maps, maps)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H/2, W/2)
        x = self.stage1(x)  # (B, w2, H/2, W/2)
        x = self.stage2(x)  # (B, w3, H/4, W/4)
        x = self.stage3(x)  # (B, w5, H/8, W/8)
        x = self.stage4(x)  # (B, w7, H/16, W/16)
        x = self.last(x)  # (B, last, H/16, W/16)
        return self.head(x.mean((2, 3)))  # (B, K)


class LinearBottleneck(nn.Module):
    """1x1 convolution to `expansion` times the channels, 3x3 depthwise, 1x1, with batch norm each; no ReLU at the end.

    The input is added where the shape stays.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = in_channels * expansion
        self.adds_input = stride == 1 and in_channels == out_channels
        self.conv = nn.Sequential(
            *pointwise(in_channels, wide),
            *depthwise(wide, stride),
            ReLU(),
            nn.Conv2d(wide, out_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return plus(self.conv(x), x) if self.adds_input else self.conv(x)


def bottlenecks(in_channels: int, out_channels: int, blocks: int, stride: int, expansion: int) -> list[nn.Module]:
    """`blocks` linear bottlenecks, of which the first changes the shape."""
    first = LinearBottleneck(in_channels, out_channels, stride, expansion)
    return [first, *(LinearBottleneck(out_channels, out_channels, 1, expansion) for _ in range(blocks - 1))]
