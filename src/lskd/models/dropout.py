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


class ShortDropout(Random):
    """`Dropout` that takes 16 random bits for each input, a third of the time of a Bernoulli draw on a CPU: p is
    rounded to a multiple of 2^-16, and what is kept is divided by 1 less that."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        dropped = round(self.p * 65536)
        if not self.training or not dropped:
            return x
        words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
        bits = words.random_(-(2**63), None, generator=self.generator).view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= dropped - 32768).to(x.dtype).mul_(65536 / (65536 - dropped))
