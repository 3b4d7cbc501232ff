"""ResNet-18 and ResNet-34 (He et al. 2016) for small images, as in the code of Zhang & Sabuncu (2020).

ImageNet's four stages of basic blocks and its widths, behind a 3x3 stem without max-pooling; PyTorch's own
initialisation of all layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.cifar_resnet import basic_stage, conv_stem


class ResNet(nn.Module):
    """3x3 stem, four stages of basic blocks at strides 1, 2, 2, 2, global average pooling, `head`."""

    def __init__(self, channels: int, num_classes: int, blocks: tuple[int, ...], widths: tuple[int, ...]) -> None:
        super().__init__()
        n1, n2, n3, n4 = blocks
        w1, w2, w3, w4 = widths
        self.stem = conv_stem(channels, w1)
        self.stage1 = basic_stage(w1, w1, n1, stride=1)
        self.stage2 = basic_stage(w1, w2, n2, stride=2)
        self.stage3 = basic_stage(w2, w3, n3, stride=2)
        self.stage4 = basic_stage(w3, w4, n4, stride=2)
        self.head = nn.Linear(w4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, w1, H, W)
        x = self.stage1(x)  # (B, w1, H, W)
        x = self.stage2(x)  # (B, w2, H/2, W/2)
        x = self.stage3(x)  # (B, w3, H/4, W/4)
        x = self.stage4(x)  # (B, w4, H/8, W/8)
        return self.head(x.mean((2, 3)))  # (B, K)
