"""Entropy regularisation, in the form in which it is a target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.errors import require
from lskd.targets.target import Seen, Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("entropy_regularization")
@dataclass(frozen=True)
class EntropyRegularization(Target):
    """q̃ = q - βp, with p the network's own outputs: H(q̃, p) = CE - β·H(p) (Zhang & Sabuncu 2020; Pereyra et al. 2017).

    The gradient goes through q̃, too: of a fixed one the second term would have none. q̃ is no distribution: it sums to
    1-β.
    """

    reads: ClassVar[tuple[str, ...]] = ("outputs",)
    distribution: ClassVar[bool] = False
    beta: float = 0.1

    def __post_init__(self) -> None:
        require(0 <= self.beta < math.inf, "beta", self.beta, ">= 0 and finite")

    def teach(self, seen: Seen) -> Tensor:
        assert seen.outputs is not None
        return seen.rows - self.beta * seen.outputs.softmax(-1)
