"""Label smoothing as maximum a posteriori estimation writes it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.errors import require
from lskd.targets.target import Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("map_label_smoothing")
@dataclass(frozen=True)
class MapLabelSmoothing(Target):
    """q̃ = q + β/K: H(q̃, p) = -log p_y - β Σ_k (1/K) log p_k, the negative log posterior of p under the Dirichlet prior
    whose parameters are all 1 + β/K (Zhang & Sabuncu 2020, section on label smoothing).

    It sums to 1+β: it is 1+β times label smoothing with α = β/(1+β), and so the same at a learning rate as much higher.
    """

    beta: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.beta < math.inf, "beta", self.beta, ">= 0 and finite")

    def rows(self, labels: Tensor, classes: int) -> Tensor:
        return super().rows(labels, classes) + self.beta / classes
