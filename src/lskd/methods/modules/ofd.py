"""The connectors of Overhaul."""

from __future__ import annotations

import math

from torch import Tensor, nn


class OverhaulConnector(nn.Sequential):
    """1x1 convolution with weights from N(0, 2 / out), and batch norm. It keeps the teacher's `margin`,
    (out, 1, 1)."""

    def __init__(self, channels: int, out: int, margin: Tensor) -> None:
        convolution = nn.Conv2d(channels, out, kernel_size=1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2.0 / out))
        super().__init__(convolution, nn.BatchNorm2d(out))
        self.register_buffer("margin", margin[:, None, None])
