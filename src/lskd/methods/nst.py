"""Neuron selectivity transfer (Huang & Wang 2017), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.methods.feature_method import FeatureMethod, same_size, total, unit
from lskd.methods.method import Batch, maps, register

if TYPE_CHECKING:
    from torch import Tensor


@register("nst")
@dataclass(frozen=True)
class NST(FeatureMethod):
    """L_feature = Σ_l mean K(t, t) + mean K(s, s) - 2 mean K(s, t), over the maps f1, f2, ... of the stages

    The squared maximum mean discrepancy between the two networks' channels, each a vector over positions of length 1,
    for the kernel K(x, y) = (x · y)².
    """

    weight: float = 50.0

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return maps(names)[1:]

    def feature_loss(self, batch: Batch) -> Tensor:
        losses = []
        for student, teacher in batch.pairs:
            s, t = (unit(feature.flatten(2)) for feature in same_size(student, teacher))  # (B, C, H·W)
            losses.append(mean_kernel(t, t) + mean_kernel(s, s) - 2.0 * mean_kernel(s, t))
        return total(losses)


def mean_kernel(x: Tensor, y: Tensor) -> Tensor:
    """(B, C, P) and (B, D, P) -> (B,): the mean of (x_c · y_d)² over all c and d."""
    return (x @ y.mT).square().mean((1, 2))
