"""The regressions of variational information distillation."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class VariationalRegressor(nn.Module):
    """q(f_t | f_s): a Gaussian whose mean is three 1x1 convolutions of f_s, with one variance σ² a channel."""

    EPS = 1e-5  # least variance

    def __init__(self, channels: int, out: int, variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(channels, out, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out, out, kernel_size=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out, out, kernel_size=1, bias=False),
        )
        self.raw_variance = nn.Parameter(torch.full((out, 1, 1), math.log(math.expm1(variance - self.EPS))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> the mean (B, out, H, W) and the variance (out, 1, 1)."""
        return self.mean(x), F.softplus(self.raw_variance) + self.EPS
