"""Training on labels alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.losses import cross_entropy
from lskd.methods.method import Batch, Method, register

if TYPE_CHECKING:
    from torch import Tensor


@register("ce")
@dataclass(frozen=True)
class CE(Method):
    """L = H(q, p): cross-entropy with the labels, smoothed by the run's `alpha`."""

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"ce": cross_entropy(batch.logits, batch.targets)}
