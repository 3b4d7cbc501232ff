"""Moving averages of a network's weights: that which is evaluated in its place, and that which a target reads."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of weights over the updates of a training, which `network` holds:

        mean ← d·mean + (1 - d)·weights,   d = min(decay, (1 + t) / (n + t))

    after update t = 0, 1, …; the second bound lets what was before them be forgotten quickly.

    As TensorFlow keeps it, with n = 10, it begins at the weights of `of`, and batch norm's running mean and variance
    are averaged as weights are (TF-slim: all of a model's variables); counters are copied. It is in eval mode.

    With a network to begin at (`into`), n = 2: d = min(decay, 1 - 1/(t + 2)), as in the code of mean teachers. Then
    parameters alone are averaged; it is in train mode, and its batch norms have statistics of their own.
    """

    def __init__(self, of: nn.Module, decay: float, into: nn.Module | None = None) -> None:
        self.decay, self._late = decay, 10 if into is None else 2
        self.means: list[Tensor]
        self.weights: list[Tensor]
        self.counters: tuple[list[Tensor], list[Tensor]] = [], []
        if into is not None:
            self.network = into.requires_grad_(False).train()
            self.means, self.weights = list(into.parameters()), list(of.parameters())
            return
        self.network = copy.deepcopy(of).requires_grad_(False).eval()
        # A layer that has several names is in a state several times, and is averaged once.
        pairs = {
            mean.data_ptr(): (mean, weight)
            for mean, weight in zip(self.network.state_dict().values(), of.state_dict().values(), strict=True)
        }.values()
        self.means, self.weights = map(list, zip(*(p for p in pairs if p[0].is_floating_point()), strict=True))
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.counters = [mean for mean, _ in counters], [counter for _, counter in counters]

    @torch.no_grad()
    def update(self, step: Tensor) -> None:
        """After update `step` (1,), counted from 0."""
        decay = ((1 + step) / (self._late + step)).clamp(max=self.decay).squeeze(0)
        changes = torch._foreach_sub(self.weights, self.means)
        torch._foreach_mul_(changes, 1 - decay)
        torch._foreach_add_(self.means, changes)
        if self.counters[0]:
            torch._foreach_copy_(*self.counters)
