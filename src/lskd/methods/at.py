"""Attention transfer (Zagoruyko & Komodakis 2017), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.methods.feature_method import FeatureMethod, same_size, total, unit
from lskd.methods.method import Batch, maps, register

if TYPE_CHECKING:
    from torch import Tensor


@register("at")
@dataclass(frozen=True)
class AT(FeatureMethod):
    """L_feature = Σ_l mean over positions of (Q(f_s) - Q(f_t))², over the maps f1, f2, ... of the stages"""

    weight: float = 1000.0

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return maps(names)[1:]

    def feature_loss(self, batch: Batch) -> Tensor:
        pairs = [same_size(student, teacher) for student, teacher in batch.pairs]
        return total([(attention(s) - attention(t)).square().mean(1) for s, t in pairs])


def attention(feature: Tensor) -> Tensor:
    """Q(f), (B, C, H, W) -> (B, H·W): the mean over channels of f², as a vector of length 1."""
    return unit(feature.square().mean(1).flatten(1))
