"""ResNet for 32 x 32 images (He et al. 2016, section 4.2), in the variant of the CRD benchmark.

Source: HobbitLong/RepDistiller, models/resnet.py. He's shortcuts pad with zeros where the shape changes; here they are
1x1 convolutions with batch norm.
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.convolutions import kaiming_fan_out_, shortcut
from lskd.models.relu import ReLU, plus, relu
from lskd.models.taps import benchmark_taps


class CifarResNet(nn.Module):
    """3x3 stem, three stages of (depth - 2) / 6 basic blocks at strides 1, 2, 2, global average pooling, `head`."""

    def __init__(self, channels: int, num_classes: int, depth: int, stem: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        w1, w2, w3 = widths
        self.stem = conv_stem(channels, stem)
        self.stage1 = basic_stage(stem, w1, blocks, stride=1)
        self.stage2 = basic_stage(w1, w2, blocks, stride=2)
        self.stage3 = basic_stage(w2, w3, blocks, stride=2)
        self.head = nn.Linear(w3, num_classes)

        kaiming_fan_out_(self)

        maps = ("stage1", "stage2", "stage3")
        self.taps = benchmark_taps(maps, [f"{stage}.{blocks - 1}.relu:input" for stage in maps])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H, W)
        x = self.stage1(x)  # (B, w1, H, W)
        x = self.stage2(x)  # (B, w2, H/2, W/2)
        x = self.stage3(x)  # (B, w3, H/4, W/4)
        return self.head(x.mean((2, 3)))  # (B, K)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm; ReLU after the first and, "post-activation", after the sum.

    The shortcut is the identity, or a 1x1 convolution with batch norm where the shape changes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = ReLU()  # a module: a tap reads its input
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(plus(residual, self.shortcut(x)))


def conv_stem(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """The stem for small images: 3x3 convolution, batch norm, ReLU; no pooling."""
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        ReLU(),
    )


def basic_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` basic blocks, of which the first changes the shape."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))
