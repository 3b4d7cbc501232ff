"""The regression from a student's map to its teacher's (FitNet; AB, where the shapes differ)."""

from __future__ import annotations

from torch import nn

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
