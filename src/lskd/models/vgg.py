"""VGG (Simonyan & Zisserman 2015) with batch norm for small images, in the variant of the CRD benchmark.

Source: HobbitLong/RepDistiller, models/vgg.py. What differs from the paper: batch norm, no pooling before the last
stage, global average pooling and one dense layer at the end. (For images 64 pixels high that code pools before the last
stage too; here the layers do not depend on the image.)
"""

from __future__ import annotations

from torch import Tensor, nn

from lskd.models.convolutions import kaiming_fan_out_
from lskd.models.relu import ReLU
from lskd.models.taps import benchmark_taps


class VGG(nn.Module):
    """Five stages, of which the first is `stem`, of 3x3 convolutions with batch norm and ReLU; 2x2 max-pooling before
    `stage1`, `stage2` and `stage3`; global average pooling, `head`.
    """

    def __init__(self, channels: int, num_classes: int, widths: tuple[int, ...], convolutions: tuple[int, ...]) -> None:
        super().__init__()
        w0, w1, w2, w3, w4 = widths
        n0, n1, n2, n3, n4 = convolutions
        self.stem = vgg_stage(channels, w0, n0, pool=False)
        self.stage1 = vgg_stage(w0, w1, n1, pool=True)
        self.stage2 = vgg_stage(w1, w2, n2, pool=True)
        self.stage3 = vgg_stage(w2, w3, n3, pool=True)
        self.stage4 = vgg_stage(w3, w4, n4, pool=False)
        self.head = nn.Linear(w4, num_classes)

        kaiming_fan_out_(self)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

        stages = {"stage1": self.stage1, "stage2": self.stage2, "stage3": self.stage3, "stage4": self.stage4}
        pre = [f"{name}.{len(stage) - 1}:input" for name, stage in stages.items()]
        self.taps = benchmark_taps(list(stages), pre)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, w0, H, W)
        x = self.stage1(x)  # (B, w1, H/2, W/2)
        x = self.stage2(x)  # (B, w2, H/4, W/4)
        x = self.stage3(x)  # (B, w3, H/8, W/8)
        x = self.stage4(x)  # (B, w4, H/8, W/8)
        return self.head(x.mean((2, 3)))  # (B, K)


def vgg_stage(in_channels: int, out_channels: int, convolutions: int, pool: bool) -> nn.Sequential:
    """3x3 convolutions, each with batch norm and ReLU.

    The convolutions have a bias, as in the source, which batch norm takes out again: it only counts as a parameter.
    """
    layers: list[nn.Module] = [nn.MaxPool2d(2)] if pool else []
    for fan_in in [in_channels] + [out_channels] * (convolutions - 1):
        layers += [
            nn.Conv2d(fan_in, out_channels, kernel_size=3, padding=1),
            nn.BatchNorm2d(out_channels),
            ReLU(),
        ]
    return nn.Sequential(*layers)
