"""Modules that methods put between the features of a student and those of its teacher.

The methods import this file where they build modules, so that planning imports no torch. Weights are initialised as in
the code of the CRD benchmark: by PyTorch's own rules, unless something else is said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lskd.errors import InputError
from lskd.methods.method import Shape


def regressor(student: Shape, teacher: Shape, *, relu: bool) -> nn.Sequential:
    """Convolution, batch norm and, with `relu`, ReLU, from a student's map (C, H, W) to the shape of its teacher's.

    3x3 at stride 2 to half the size, a transposed 4x4 at stride 2 to twice the size, else a (1 + ΔH)x(1 + ΔW) window
    without padding (1x1 for maps of one size). `InputError` for a larger size that is not twice the student's.
    """
    (channels, height, width), (out, out_height, out_width) = student, teacher
    layer: nn.Module
    if height == 2 * out_height:
        layer = nn.Conv2d(channels, out, kernel_size=3, stride=2, padding=1)
    elif 2 * height == out_height:
        layer = nn.ConvTranspose2d(channels, out, kernel_size=4, stride=2, padding=1)
    elif height >= out_height and width >= out_width:
        layer = nn.Conv2d(channels, out, kernel_size=(1 + height - out_height, 1 + width - out_width))
    else:
        raise InputError(f"student's map = {student}: must be at least as large as the teacher's {teacher}, or half")
    return nn.Sequential(layer, nn.BatchNorm2d(out), *([nn.ReLU()] if relu else []))


def boundary_connectors(shapes: Sequence[tuple[Shape, Shape]]) -> nn.ModuleList:
    """AB's: nothing where the shapes are equal, else `regressor` without ReLU."""
    return nn.ModuleList(nn.Identity() if s == t else regressor(s, t, relu=False) for s, t in shapes)


class OverhaulConnector(nn.Sequential):
    """Overhaul's: 1x1 convolution with weights from N(0, 2 / out), and batch norm. It keeps the teacher's `margin`,
    (out, 1, 1)."""

    def __init__(self, channels: int, out: int, margin: Tensor) -> None:
        convolution = nn.Conv2d(channels, out, kernel_size=1, bias=False)
        nn.init.normal_(convolution.weight, std=math.sqrt(2.0 / out))
        super().__init__(convolution, nn.BatchNorm2d(out))
        self.register_buffer("margin", margin[:, None, None])


class VariationalRegressor(nn.Module):
    """VID's q(f_t | f_s): a Gaussian whose mean is three 1x1 convolutions of f_s, with one variance σ² a channel."""

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


class Paraphraser(nn.Module):
    """FT's autoencoder of the teacher's map: three 3x3 convolutions, each with LeakyReLU(0.1), to `factors` channels,
    and three transposed ones back."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        widths = ((channels, channels), (channels, factors), (factors, factors))
        self.encoder = _convolutions(nn.Conv2d, *widths)
        self.decoder = _convolutions(nn.ConvTranspose2d, *((b, a) for a, b in reversed(widths)))


def translator(channels: int, factors: int) -> nn.Sequential:
    """FT's path from the student's map to factors: as `Paraphraser.encoder`, with batch norm."""
    return _convolutions(nn.Conv2d, (channels, channels), (channels, factors), (factors, factors), norm=nn.BatchNorm2d)


def _convolutions(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d],
    *widths: tuple[int, int],
    norm: type[nn.Module] = nn.Identity,
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, out in widths:
        layers += [kind(width, out, kernel_size=3, padding=1), norm(out), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
