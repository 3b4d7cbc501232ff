"""ResNet of tensor2tensor for CIFAR, the code base of Müller et al. (2019).

Source: tensorflow/tensor2tensor, models/resnet.py (`resnet_cifar_*`, block "residual"), with 9 blocks a stage and a 3x3
instead of a 7x7 stem, as the paper says. What differs from He's ResNet-56: twice the widths behind the stem,
pre-activation blocks, a projection in every stage (also the first), and no batch norm or ReLU after the last sum.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from lskd.models.cifar_resnet import conv_stem
from lskd.models.wide_resnet import PreActivationBlock


class T2TResNet(nn.Module):
    """3x3 stem with batch norm and ReLU, three stages of (depth - 2) / 6 pre-activation blocks at strides 1, 2, 2,
    global average pooling of the raw sums, `head`. So penultimate activations may be negative.

    Batch norm keeps 0.9 of its running statistics, TensorFlow's momentum 0.9 and PyTorch's 0.1, with eps 1e-5: both are
    PyTorch's defaults.
    """

    def __init__(self, channels: int, num_classes: int, depth: int, stem: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        w1, w2, w3 = widths
        self.stem = conv_stem(channels, stem)
        self.stage1 = t2t_stage(stem, w1, blocks, stride=1)
        self.stage2 = t2t_stage(w1, w2, blocks, stride=2)
        self.stage3 = t2t_stage(w2, w3, blocks, stride=2)
        self.head = nn.Linear(w3, num_classes)

        # Convolutions: tf.variance_scaling_initializer(), scale 1 over fan_in.
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                variance_scaling_(module.weight, variance=1 / module.weight[0].numel())
        # Dense layer: it names no initialiser, so it takes its variable scope's. That is not TensorFlow's own default
        # (Glorot uniform), because T2TModel.call sets it to hparams.initializer, in resnet_base "normal_unit_scaling"
        # with gain 2: scale 2 over the mean of fan_in and fan_out.
        variance_scaling_(self.head.weight, variance=2 / ((w3 + num_classes) / 2))
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)  # (B, stem, H, W)
        x = self.stage1(x)  # (B, w1, H, W)
        x = self.stage2(x)  # (B, w2, H/2, W/2)
        x = self.stage3(x)  # (B, w3, H/4, W/4)
        return self.head(x.mean((2, 3)))  # (B, K)


def t2t_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` pre-activation blocks; the first always has a projection, 1x1 convolution and batch norm."""
    projection = nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )
    first = PreActivationBlock(in_channels, out_channels, stride, projection)
    rest = (PreActivationBlock(out_channels, out_channels, stride=1, projection=None) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def variance_scaling_(weight: Tensor, variance: float) -> None:
    """Fill `weight` as `tf.variance_scaling_initializer` does in its (truncated) "normal" mode: std sqrt(variance).

    TensorFlow 1.13, current when the paper was written, cuts the normal distribution at two of its std and widens it by
    1 / 0.8796 before, so that `variance` holds after the cut. Plain `tf.truncated_normal_initializer` does not.
    """
    std = math.sqrt(variance) / 0.87962566103423978
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
