"""The frozen teacher: its logits for any view of any training image."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lskd.data.augment import Views
from lskd.engine.optimizer import BATCH_NORMS

Forward = Callable[[nn.Module, Tensor], Tensor]  # (network, uint8 images) -> fp32 logits


class Teacher:
    """A network that only teaches: no gradient, weights and buffers unchanged.

    In mode "eval" its logits are a function of the view alone, so where the student will make at least as many passes
    over the data as there are views, and memory allows, every view is evaluated once, ahead, and looked up from then
    on. In mode "batch_stats" batch norm uses each batch's own statistics, and the teacher is evaluated at every step.
    """

    def __init__(
        self, network: nn.Module, views: Views, forward: Forward, *, mode: str, passes: float, memory: float
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.views, self.forward = views, forward
        self.table: Tensor | None = None  # (N · views, K)
        if mode == "batch_stats":
            for module in network.modules():
                if isinstance(module, BATCH_NORMS):
                    module.train()
                    module.track_running_stats = False  # neither read nor changed; the buffers stay in the state
        else:
            head = network.get_submodule("head")
            assert isinstance(head, nn.Linear)
            size = len(views.images) * views.count * head.out_features * 4
            if passes >= views.count and size <= memory:
                self.table = self._tabulate()

    @torch.no_grad()
    def _tabulate(self, batch: int = 512) -> Tensor:
        device, count = self.views.images.device, self.views.count
        indices = torch.arange(len(self.views.images), device=device)
        columns = []
        for view in range(count):
            chunks = indices.split(batch)
            columns.append(torch.cat([self._evaluate(chunk, torch.full_like(chunk, view)) for chunk in chunks]))
        return torch.stack(columns, dim=1).flatten(0, 1)

    def _evaluate(self, indices: Tensor, views: Tensor) -> Tensor:
        return self.forward(self.network, self.views.take(indices, views))

    @torch.no_grad()
    def __call__(self, indices: Tensor, views: Tensor) -> Tensor:
        """Logits (B, K) for images `indices` (B,) seen through `views` (B,)."""
        if self.table is not None:
            return self.table[indices * self.views.count + views]
        return self._evaluate(indices, views)
