"""Deep mutual learning (Zhang, Xiang, Hospedales & Lu, CVPR 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.losses import cross_entropy, soft_kl
from lskd.methods.method import Batch, Method, register

if TYPE_CHECKING:
    from torch import Tensor


@register("dml")
@dataclass(frozen=True)
class DML(Method):
    """L_θ = H(q, p_θ) + mean over the other networks j of KL(p_j ‖ p_θ), for each network θ of the run.

    Without temperature, and with q what each network's own target says (hard labels there).
    Of its two ways to update, this is the simultaneous one: all networks look at the batch, and then all are updated,
    each from what the others said before. (The paper's Algorithm 1 updates them in turn.)
    """

    needs_peers: ClassVar[bool] = True

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        mimicry = [soft_kl(batch.logits, peer.logits, student_t=1.0, teacher_t=1.0) for peer in batch.peers]
        return {
            "ce": cross_entropy(batch.logits, batch.targets),
            "mimicry": sum(mimicry[1:], mimicry[0]) / len(mimicry),
        }
