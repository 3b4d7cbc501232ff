"""Dropout that draws from a generator of its own training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zero each input with chance p while training, and divide the others by 1 - p.

    The loop sets `generator`, as it does for any module with that attribute. `nn.Dropout` draws from torch's global
    generator, which trainings side by side would take numbers from in turn: a run would depend on its companions.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = torch.empty_like(x).bernoulli_(1.0 - self.p, generator=self.generator)
        return x * keep.div_(1.0 - self.p)
