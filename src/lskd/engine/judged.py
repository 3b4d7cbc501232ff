"""The outputs of a network on one part of the data, as they come."""

from __future__ import annotations

import torch
from torch import Tensor

from lskd import metrics


class Judged:
    """Metrics of outputs that come piece by piece. With `most`, only so many of them are kept, the first ones, for what
    needs all of them at once, which is then of them alone: calibration. Means are over all outputs all the same."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.count = most, 0
        self._means: dict[str, float] = {}
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Outputs (n, K) and labels (n,). `FloatingPointError` for outputs that are not finite."""
        count = len(labels)
        if self.most is not None:
            means = metrics.summary(logits, labels, means=True)
            share = count / (self.count + count)
            before = self._means or means
            self._means = {name: before[name] * (1 - share) + value * share for name, value in means.items()}
            room = max(self.most - self.count, 0)
            logits, labels = logits[:room], labels[:room]
        if len(labels):
            self._logits.append(logits)
            self._labels.append(labels)
        self.count += count

    @property
    def outputs(self) -> tuple[Tensor, Tensor]:
        """What is kept: logits (n, K) and labels (n,)."""
        if len(self._labels) > 1:
            self._logits, self._labels = [torch.cat(self._logits)], [torch.cat(self._labels)]
        return self._logits[0], self._labels[0]

    def summary(self) -> dict[str, float]:
        """`metrics.summary`."""
        if self.most is None:
            return metrics.summary(*self.outputs)
        found = self._means | metrics.summary(*self.outputs, means=False)
        return {name: found[name] for name in metrics.recorded(self.outputs[0].shape[-1])}
