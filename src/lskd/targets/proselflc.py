"""Progressive self label correction (ProSelfLC)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import entropy
from lskd.quantity import Quantity
from lskd.targets.target import Seen, Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("proselflc")
@dataclass(frozen=True)
class ProSelfLC(Target):
    """q̃ = (1-ε)q + εp, with p the network's own outputs, and ε the trust in them (Wang et al. 2021, eq. 5 to 7):

    ε = g·l,   g = 1/(1 + exp(-B·(t/Γ - transit)))  global: of the training's steps, t are done of Γ
               l = 1 - H(p)/log K                   local: of the example

    transit is 1/2 in the paper, another in the authors' later code. trust: global and local are g and l alone. ε is a
    constant to the gradient. gradient: through p in q̃, as in the authors' code, or stop: then that of the loss is 1-ε
    times that of CE.
    """

    reads: ClassVar[tuple[str, ...]] = ("outputs", "progress")
    watches: ClassVar[Mapping[str, Quantity]] = {"trust": Quantity("trust in the network's own outputs (ε)")}
    b: float = 14.0
    transit: float = 0.5
    trust: Literal["both", "global", "local"] = "both"
    gradient: Literal["through", "stop"] = "through"

    def __post_init__(self) -> None:
        require(0 < self.b < math.inf, "b", self.b, "> 0 and finite")
        require(0 < self.transit <= 1, "transit", self.transit, "in (0, 1]: a share of the training")

    def teach(self, seen: Seen) -> Tensor:
        assert seen.outputs is not None
        epsilon = self.epsilon(seen)[:, None]
        outputs = seen.outputs if self.gradient == "through" else seen.outputs.detach()
        return (1.0 - epsilon) * seen.rows + epsilon * outputs.softmax(-1)

    def watch(self, seen: Seen) -> Mapping[str, Tensor]:
        return {"trust": self.epsilon(seen)}

    def epsilon(self, seen: Seen) -> Tensor:
        """The trust in the network's own outputs, (B,) in [0, 1], without gradient."""
        assert seen.outputs is not None and seen.progress is not None
        probs = seen.outputs.detach().softmax(-1)
        both = (self.b * (seen.progress - self.transit)).sigmoid()
        if self.trust == "global":
            return both.expand(len(probs))
        local = (1.0 - entropy(probs) / math.log(probs.shape[-1])).clamp(min=0.0)  # 0 at uniform p, rounded or not
        return local if self.trust == "local" else both * local
