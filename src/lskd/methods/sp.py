"""Similarity-preserving distillation (Tung & Mori 2019), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from lskd.methods.feature_method import FeatureMethod, unit
from lskd.methods.method import Batch, maps, register

if TYPE_CHECKING:
    from torch import Tensor


@register("sp")
@dataclass(frozen=True)
class SP(FeatureMethod):
    """L_feature = ‖G(f_s) - G(f_t)‖² / B², with the last map of each network; G is (B, B)"""

    whole_batch: ClassVar[bool] = True

    weight: float = 3000.0

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return maps(names)[-1:]

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        return (similarities(student) - similarities(teacher)).square().mean(1)


def similarities(feature: Tensor) -> Tensor:
    """G(f), (B, ...) -> (B, B): the products of all pairs of flattened examples, each row of length 1."""
    rows = feature.flatten(1)
    return unit(rows @ rows.T)
