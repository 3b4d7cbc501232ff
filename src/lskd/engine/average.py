"""The moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of weights over the updates of a training, as TensorFlow keeps it:

        mean ← d·mean + (1 - d)·weights,   d = min(decay, (1 + t) / (10 + t))

    after update t = 0, 1, …, from the initial weights; the second bound lets the first updates be forgotten quickly.
    Batch norm's running mean and variance are averaged as weights are (TF-slim: all of a model's variables); counters
    are copied. `network` holds the mean, in eval mode.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        # A layer that has several names is in a state several times, and is averaged once.
        pairs = {
            mean.data_ptr(): (mean, weight)
            for mean, weight in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True)
        }.values()
        self.means, self.weights = map(list, zip(*(p for p in pairs if p[0].is_floating_point()), strict=True))
        counters = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.counters = [mean for mean, _ in counters], [counter for _, counter in counters]

    @torch.no_grad()
    def update(self, step: Tensor) -> None:
        """After update `step` (1,), counted from 0."""
        decay = ((1 + step) / (10 + step)).clamp(max=self.decay).squeeze(0)
        changes = torch._foreach_sub(self.weights, self.means)
        torch._foreach_mul_(changes, 1 - decay)
        torch._foreach_add_(self.means, changes)
        if self.counters[0]:
            torch._foreach_copy_(*self.counters)
