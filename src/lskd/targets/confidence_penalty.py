"""The confidence penalty, in the form in which it is a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.errors import require
from lskd.targets.target import Seen, Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("confidence_penalty")
@dataclass(frozen=True)
class ConfidencePenalty(Target):
    """q̃ = (1-ε)q - εp, with p the network's own outputs: H(q̃, p) = (1-ε)·CE - ε·H(p).

    The form of Wang et al. 2021 (ProSelfLC, table 1) of Pereyra et al. 2017. The gradient goes through q̃, too: of a
    fixed one the second term would have none. q̃ is no distribution: it sums to 1-2ε.
    """

    reads: ClassVar[tuple[str, ...]] = ("outputs",)
    distribution: ClassVar[bool] = False
    epsilon: float = 0.25

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < 1, "epsilon", self.epsilon, "in [0, 1)")

    def teach(self, seen: Seen) -> Tensor:
        assert seen.outputs is not None
        return (1.0 - self.epsilon) * seen.rows - self.epsilon * seen.outputs.softmax(-1)
