"""Soft bootstrapping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.targets.target import Seen, Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("boot_soft")
@dataclass(frozen=True)
class BootSoft(Target):
    """q̃ = (1-ε)q + εp, with p the network's own outputs (Reed et al. 2015; the comparator of Wang et al. 2021):
    H(q̃, p) = (1-ε)·CE + ε·H(p).

    gradient: through q̃, too, which minimises the entropy H(p), as in Reed's loss and in ProSelfLC's code; or stop: q̃ is
    a constant, and what is left is (1-ε) times the gradient of CE.
    """

    reads: ClassVar[tuple[str, ...]] = ("outputs",)
    epsilon: float = 0.25
    gradient: Literal["through", "stop"] = "through"

    def __post_init__(self) -> None:
        require(0 <= self.epsilon < 1, "epsilon", self.epsilon, "in [0, 1)")

    def teach(self, seen: Seen) -> Tensor:
        assert seen.outputs is not None
        outputs = seen.outputs if self.gradient == "through" else seen.outputs.detach()
        return (1.0 - self.epsilon) * seen.rows + self.epsilon * outputs.softmax(-1)
