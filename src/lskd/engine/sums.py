"""What is summed over an epoch of a training."""

from __future__ import annotations

import torch
from torch import Tensor


class Sums:
    """Sums over the examples of an epoch, by name, on the device: of the terms of the loss and what else is watched, of
    the examples themselves, and of those that are classified correctly (of mixed images, the shares that are)."""

    EXAMPLES, CORRECT = "#examples", "#correct"

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor | int) -> None:
        if name not in self.totals:
            self.totals[name] = torch.zeros((), dtype=torch.float64, device=self.device)
        self.totals[name] += value

    def end_epoch(self) -> dict[str, float]:
        """top1 (%), where what is correct was counted, and the means by name. All begin anew. Waits for the device."""
        totals = dict(zip(self.totals, torch.stack(list(self.totals.values())).tolist(), strict=True))
        for value in self.totals.values():
            value.zero_()
        seen = totals.pop(self.EXAMPLES)
        top1 = {"top1": 100.0 * totals.pop(self.CORRECT) / seen} if self.CORRECT in totals else {}
        return top1 | {name: total / seen for name, total in totals.items()}

    def restore(self, totals: dict[str, Tensor]) -> None:
        self.totals = {name: value.to(self.device) for name, value in totals.items()}
