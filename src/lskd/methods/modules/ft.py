"""The networks of factor transfer."""

from __future__ import annotations

from torch import nn


class Paraphraser(nn.Module):
    """An autoencoder of the teacher's map: three 3x3 convolutions, each with LeakyReLU(0.1), to `factors` channels,
    and three transposed ones back."""

    def __init__(self, channels: int, factors: int) -> None:
        super().__init__()
        widths = ((channels, channels), (channels, factors), (factors, factors))
        self.encoder = _convolutions(nn.Conv2d, *widths)
        self.decoder = _convolutions(nn.ConvTranspose2d, *((b, a) for a, b in reversed(widths)))


def translator(channels: int, factors: int) -> nn.Sequential:
    """The path from the student's map to factors: as `Paraphraser.encoder`, with batch norm."""
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
