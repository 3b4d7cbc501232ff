"""Probabilistic knowledge transfer (Passalis & Tefas 2018), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.methods.feature_method import FeatureMethod
from lskd.methods.method import Batch, register

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-7


@register("pkt")
@dataclass(frozen=True)
class PKT(FeatureMethod):
    """L_feature = mean_ij p_t log(p_t / p_s), with the affinities p of the pooled features"""

    whole_batch: ClassVar[bool] = True

    weight: float = 30000.0

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return ["pool"]

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        p_s, p_t = affinities(student), affinities(teacher)
        return (p_t * ((p_t + EPS) / (p_s + EPS)).log()).mean(1)


def affinities(x: Tensor) -> Tensor:
    """p, (B, D) -> (B, B): (cosine + 1) / 2 of all pairs of examples, over each row's sum."""
    x = x / (x.norm(dim=1, keepdim=True) + EPS)
    similarity = (x @ x.T + 1.0) / 2.0
    return similarity / similarity.sum(1, keepdim=True)
