"""Confident mutual distillation (Li et al. 2021, arXiv 2106.01489: "CMD"): knowledge that a peer is sure of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import cross_entropy, entropy
from lskd.methods.method import Batch, Method, Peer, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from torch import Tensor


@register("cmd")
@dataclass(frozen=True)
class CMD(Method):
    """L_A = H(q̃_A, p_A) + 1[H(p_B) < χ(t)·log K] · H(q̃_B, p_A), and L_B likewise: of an example a network learns what
    its peer is taught of it (q̃_B, its own self-corrected target, without gradient), where that peer is confident.

    Where the peer is selected, that is 2·H((q̃_A + q̃_B)/2, p_A). Of several peers the second term is the mean.

    - `chi`: the threshold as a share of the entropy of the uniform distribution, log K. 0: zero knowledge, networks
      that learn each for itself; 1 or more: all knowledge, conventional mutual distillation.
    - `progressive`: none (CMD-S): χ(t) = chi. The paper lets χ change with the share t of the training that is done
      (CMD-P); its formula was not at hand, so that both directions are here, with ProSelfLC's logistic curve
      g(t) = 1/(1 + exp(-slope·(t - ½))): rising: χ(t) = chi·g(t), more and more is taken over; falling:
      χ(t) = chi·(1 - g(t)), what is taken over must be more and more certain.

    Logged beside the loss: `taken_over`, the share of the peers' targets that are taken over.
    """

    needs_peers: ClassVar[bool] = True
    watches: ClassVar[Mapping[str, Quantity]] = {"taken_over": Quantity("peers' targets that are taken over", digits=3)}

    chi: float = 0.5
    progressive: Literal["none", "rising", "falling"] = "none"
    slope: float = 14.0

    def __post_init__(self) -> None:
        require(0 <= self.chi < math.inf, "chi", self.chi, "a share of log K, >= 0 (0: zero knowledge, 1: all)")
        require(0 < self.slope < math.inf, "slope", self.slope, "> 0 and finite")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        taken = [self._confident(batch, peer) * cross_entropy(batch.logits, peer.targets) for peer in batch.peers]
        return {"own": cross_entropy(batch.logits, batch.targets), "peers": sum(taken[1:], taken[0]) / len(taken)}

    def watch(self, batch: Batch) -> Mapping[str, Tensor]:
        taken = [self._confident(batch, peer) for peer in batch.peers]
        return {"taken_over": sum(taken[1:], taken[0]) / len(taken)}

    def _confident(self, batch: Batch, peer: Peer) -> Tensor:
        """1 where the peer's target is taken over, and 0 elsewhere, (B,)."""
        share = entropy(peer.logits.softmax(-1)) / math.log(peer.logits.shape[-1])
        chi = self._threshold(batch)
        # At 1 all are: of a uniform distribution rounding may make more than log K.
        return ((share < chi) | (chi >= 1.0)).float()

    def _threshold(self, batch: Batch) -> Tensor:
        """χ(t), ()."""
        import torch

        if self.progressive == "none":
            return torch.full((), self.chi, device=batch.logits.device)
        assert batch.progress is not None
        rising = torch.sigmoid(self.slope * (batch.progress - 0.5))
        return self.chi * (rising if self.progressive == "rising" else 1.0 - rising)
