"""Correlation congruence (Peng et al. 2019), as in the CRD benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from lskd.errors import require
from lskd.methods.feature_method import FeatureMethod
from lskd.methods.method import Batch, Pair, register

if TYPE_CHECKING:
    from torch import Tensor, nn


@register("cc")
@dataclass(frozen=True)
class CC(FeatureMethod):
    """L_feature = mean_i Σ_c |Δ_ic| |Δ_i+1,c|, with Δ = e_s(f_s) - e_t(f_t) of the pooled features

    i and i+1 are neighbours in the batch; e_s, e_t are linear maps to `dimensions`, both trained.
    """

    small: ClassVar[Mapping[str, Any]] = {"dimensions": 6}
    whole_batch: ClassVar[bool] = True

    weight: float = 0.02
    dimensions: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.dimensions >= 1, "dimensions", self.dimensions, ">= 1")

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return ["pool"]

    def build(self, pair: Pair) -> nn.Module:
        from torch import nn

        [((student,), (teacher,))] = pair.shapes
        return nn.ModuleList([nn.Linear(student, self.dimensions), nn.Linear(teacher, self.dimensions)])

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        embed_student, embed_teacher = batch.module
        size = (embed_student(student) - embed_teacher(teacher)).abs()  # (B, dimensions)
        # A batch of one has no neighbours, and no loss.
        neighbours = (size[:-1] * size[1:]).sum() / max(1, len(size) - 1)
        return neighbours.expand(len(size))
