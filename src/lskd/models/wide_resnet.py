"""Wide ResNet (Zagoruyko & Komodakis 2016), in the variant of the CRD benchmark: no dropout.

Source: HobbitLong/RepDistiller, models/wrn.py.
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.convolutions import kaiming_fan_out_
from lskd.models.relu import plus, relu
from lskd.models.taps import benchmark_taps


class WideResNet(nn.Module):
    """3x3 stem, three stages of (depth - 4) / 6 pre-activation blocks at strides 1, 2, 2, batch norm, ReLU, global
    average pooling, `head`.

    Stages end on a sum and not on a ReLU; "before ReLU" are their maps behind the next batch norm.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, widen: int) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        w1, w2, w3 = 16 * widen, 32 * widen, 64 * widen
        self.stem = nn.Conv2d(channels, 16, kernel_size=3, padding=1, bias=False)
        self.stage1 = wide_stage(16, w1, blocks, stride=1)
        self.stage2 = wide_stage(w1, w2, blocks, stride=2)
        self.stage3 = wide_stage(w2, w3, blocks, stride=2)
        self.bn = nn.BatchNorm2d(w3)
        self.head = nn.Linear(w3, num_classes)

        kaiming_fan_out_(self)
        nn.init.zeros_(self.head.bias)

        self.taps = benchmark_taps(("stage1", "stage2", "stage3"), ("stage2.0.bn1", "stage3.0.bn1", "bn"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, 16, H, W)
        x = self.stage1(x)  # (B, w1, H, W)
        x = self.stage2(x)  # (B, w2, H/2, W/2)
        x = self.stage3(x)  # (B, w3, H/4, W/4)
        x = relu(self.bn(x))
        return self.head(x.mean((2, 3)))  # (B, K)


class PreActivationBlock(nn.Module):
    """Batch norm, ReLU, 3x3 convolution, twice; nothing after the sum (He et al. 2016, "Identity mappings").

    `projection` maps the input to the output's shape, and takes it after the first batch norm and ReLU. Without one the
    shortcut is the raw input.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, projection: nn.Module | None) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.projection = projection

    def forward(self, x: Tensor) -> Tensor:
        activated = relu(self.bn1(x))
        shortcut = x if self.projection is None else self.projection(activated)
        residual = self.conv1(activated)
        residual = self.conv2(relu(self.bn2(residual)))
        return plus(residual, shortcut)


def wide_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` pre-activation blocks; the first has a 1x1 convolution as its projection if the width changes."""
    projection = None
    if in_channels != out_channels:
        projection = nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)
    first = PreActivationBlock(in_channels, out_channels, stride, projection)
    rest = (PreActivationBlock(out_channels, out_channels, stride=1, projection=None) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
