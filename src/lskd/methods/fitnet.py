"""FitNets: hints (Romero et al. 2015), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.methods.feature_method import FeatureMethod
from lskd.methods.method import Batch, Pair, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("fitnet")
@dataclass(frozen=True)
class FitNet(FeatureMethod):
    """L_feature = mean over (C, H, W) of (r(f_s) - f_t)², with f the map f<hint> and r a convolution, BN and ReLU

    r is trained together with the student; there is no stage before, as the paper has one. Its shape:
    `modules.regressor`.
    """

    weight: float = 100.0
    hint: int = 2

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return [f"f{self.hint}"]

    def build(self, pair: Pair) -> nn.Module:
        from lskd.methods.modules.regressor import regressor

        [(student, teacher)] = pair.shapes
        return regressor(student, teacher, relu=True)

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        return (batch.module(student) - teacher).square().mean((1, 2, 3))
