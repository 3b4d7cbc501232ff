"""Networks that are random while they train, and dropout, which most of them have it from."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Random(nn.Module):
    """A module that draws random numbers while it trains: from `generator`, which its training gives it.

    torch's global generator, from which `nn.Dropout` draws, would give numbers to trainings side by side in turn: a run
    would depend on its companions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.generator: torch.Generator | None = None


class Dropout(Random):
    """Zero each input with chance p while training, and divide the others by 1 - p."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self.generator)
        return x * keep.div_(1.0 - self.p)
