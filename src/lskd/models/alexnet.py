"""The network of TensorFlow's CIFAR-10 tutorial, the "AlexNet" of Müller et al. (2019).

Source: tensorflow/models, tutorials/image/cifar10/cifar10.py. Without the tutorial's moving average of weights, as the
paper says. The tutorial feeds 24 x 24 crops; any size works.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.models.relu import relu


class AlexNet(nn.Module):
    """conv 5x5x64, pool, LRN; conv 5x5x64, LRN, pool; dense 384, 192, K. No batch norm, no dropout.

    Note the order of pool and LRN, which differs between the two convolutions. In the tutorial `fc1` and `fc2` are
    called local3 and local4, `head` softmax_linear.
    """

    def __init__(self, input_shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        channels, height, width = input_shape
        for _ in range(2):  # each pooling halves, rounding up
            height, width = (height + 1) // 2, (width + 1) // 2
        self.conv1 = nn.Conv2d(channels, 64, kernel_size=5, padding=2)
        self.norm1 = LocalResponseNorm(64)
        self.conv2 = nn.Conv2d(64, 64, kernel_size=5, padding=2)
        self.norm2 = LocalResponseNorm(64)
        self.fc1 = nn.Linear(64 * height * width, 384)
        self.fc2 = nn.Linear(384, 192)
        self.head = nn.Linear(192, num_classes)

        init_layer(self.conv1, std=0.05, bias=0.0)
        init_layer(self.conv2, std=0.05, bias=0.1)
        init_layer(self.fc1, std=0.04, bias=0.1)
        init_layer(self.fc2, std=0.04, bias=0.1)
        init_layer(self.head, std=1 / 192, bias=0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = relu(self.conv1(x))  # (B, 64, H, W)
        x = self.norm1(max_pool_same(x))  # (B, 64, H/2, W/2)
        x = relu(self.conv2(x))
        x = max_pool_same(self.norm2(x))  # (B, 64, H/4, W/4)
        x = relu(self.fc1(x.flatten(1)))  # (B, 384)
        x = relu(self.fc2(x))  # (B, 192)
        return self.head(x)  # (B, K)


def init_layer(layer: nn.Conv2d | nn.Linear, std: float, bias: float) -> None:
    """Weights as `tf.truncated_normal_initializer(stddev=std)`: N(0, std^2), redrawn beyond two std.

    The cut leaves an actual standard deviation of 0.88 std, which TensorFlow's initialiser does not correct.
    """
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)


def max_pool_same(x: Tensor) -> Tensor:
    """3x3 max-pooling with stride 2 and TensorFlow's SAME padding: (B, C, H, W) -> (B, C, ceil(H/2), ceil(W/2)).

    SAME pads an odd side by one pixel at both ends, and an even side by one at the end only. `ceil_mode` is that one
    pixel at the end: its last window hangs over the border, and what is outside never wins.
    """
    height, width = x.shape[-2:]
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=(height % 2, width % 2), ceil_mode=True)


class LocalResponseNorm(nn.Module):
    """`tf.nn.lrn`: x_c / (bias + alpha * sum of x_j^2 over the channels j with |j - c| <= radius) ^ beta.

    The default is the tutorial's, and equals `nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1)`: PyTorch divides
    alpha by the size of the window, TensorFlow does not.

    The windowed sum over channels is a 1x1 convolution with a banded matrix. Forward plus backward of (128, 64, 16, 16)
    take 12 ms on two CPU cores where `nn.LocalResponseNorm`, which pools in 3-D, takes 45 to 60 (torch 2.15). Shifted
    slices, cumulative sums and 2-D pooling over channels took 25 to 45.
    """

    band: Tensor
    bias: Tensor

    def __init__(
        self, channels: int, radius: int = 4, bias: float = 1.0, alpha: float = 0.001 / 9, beta: float = 0.75
    ) -> None:
        super().__init__()
        self.beta = beta
        channel = torch.arange(channels)
        near = (channel[:, None] - channel).abs() <= radius  # (C, C)
        # Constants: they follow the module to its device, but do not belong into a file of weights.
        self.register_buffer("band", alpha * near[:, :, None, None].float(), persistent=False)
        self.register_buffer("bias", torch.full((channels,), bias), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Under autocast too in float32: alpha * x^2 is tiny beside the bias, and lost in half precision.
        with torch.autocast(x.device.type, enabled=False):
            x_full = x.to(self.band.dtype)
            scale = F.conv2d(x_full.square(), self.band, self.bias).pow(-self.beta)
            return (x_full * scale).to(x.dtype)
