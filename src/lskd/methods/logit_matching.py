"""Logit matching (Ba & Caruana 2014; the MNIST experiment of Müller 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import cross_entropy, logit_mse
from lskd.methods.method import Batch, Method, register

if TYPE_CHECKING:
    from torch import Tensor


@register("logit_matching")
@dataclass(frozen=True)
class LogitMatching(Method):
    """L = (1-β) · H(q, p_s) + β · ½ Σ_k (z_s - z_t)²

    Müller 2019, A.5: 0.4 · CE + 0.6 · 0.5 · squared error. The paper does not say whether the error is summed over the
    K logits (reduce="sum") or averaged, as `MSELoss` does (reduce="mean"). conf/method/logit_matching.yaml averages:
    summed, training diverges at the paper's learning rate.
    """

    needs_teacher: ClassVar[bool] = True

    beta: float = 0.6
    reduce: Literal["sum", "mean"] = "sum"

    def __post_init__(self) -> None:
        require(0 <= self.beta <= 1, "beta", self.beta, "in [0, 1]")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        return {
            "ce": (1.0 - self.beta) * cross_entropy(batch.logits, batch.targets),
            "match": self.beta * logit_mse(batch.logits, batch.teacher_logits, reduce=self.reduce),
        }

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor:
        return teacher_logits.softmax(-1)
