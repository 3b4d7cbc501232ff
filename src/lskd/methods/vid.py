"""Variational information distillation (Ahn et al. 2019), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lskd.errors import require
from lskd.methods.feature_method import FeatureMethod, same_size, total
from lskd.methods.method import Batch, Pair, maps, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("vid")
@dataclass(frozen=True)
class VID(FeatureMethod):
    """L_feature = Σ_l mean over (C, H, W) of ½[(μ(f_s) - f_t)² / σ² + log σ²], over the maps f1, f2, ... of the stages

    μ and σ² (of each channel, starting at `variance`) are trained: `modules.vid.VariationalRegressor`.
    """

    variance: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.variance > 1e-4, "variance", self.variance, "> 1e-4")

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return maps(names)[1:]

    def build(self, pair: Pair) -> nn.Module:
        from torch import nn

        from lskd.methods.modules.vid import VariationalRegressor

        return nn.ModuleList(VariationalRegressor(s[0], t[0], self.variance) for s, t in pair.shapes)

    def feature_loss(self, batch: Batch) -> Tensor:
        losses = []
        for regressor, (student, teacher) in zip(batch.module, batch.pairs, strict=True):
            student, teacher = same_size(student, teacher)
            mean, variance = regressor(student)
            losses.append(0.5 * ((mean - teacher).square() / variance + variance.log()).mean((1, 2, 3)))
        return total(losses)
