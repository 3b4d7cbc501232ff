"""Relational knowledge distillation (Park et al. 2019), as in the CRD benchmark; and weighted by WSL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.methods.feature_method import FeatureMethod, unit
from lskd.methods.method import Batch, register
from lskd.methods.wsl import wsl_weights

if TYPE_CHECKING:
    from torch import Tensor


@register("rkd")
@dataclass(frozen=True)
class RKD(FeatureMethod):
    """L_feature = distance · mean_ij h(d_s - d_t) + angle · mean_ijk h(a_s - a_t), with the pooled features

    d_ij are distances divided by their mean over the batch, a_ijk the cosine of the angle at i between j and k, and h
    is the smooth L1 distance (½x² to 1, then |x| - ½). `weighting` multiplies each pair by the mean `wsl_weights` of
    its two examples, each triplet by that of its three (Zhou et al. 2021, Table 8).
    """

    whole_batch: ClassVar[bool] = True

    distance: float = 25.0
    angle: float = 50.0
    weighting: Literal["none", "exp", "sigmoid_difference", "sigmoid_ratio", "sigmoid_rescaled"] = "none"

    def taps(self, names: Sequence[str]) -> Sequence[str]:
        return ["pool"]

    def feature_loss(self, batch: Batch) -> Tensor:
        [(student, teacher)] = batch.pairs
        distance = smooth_l1(distances(student) - distances(teacher))  # (B, B)
        angle = smooth_l1(angles(student) - angles(teacher))  # (B, B, B)
        if self.weighting != "none":
            w = wsl_weights(batch, self.weighting)
            pairs = w[:, None] + w
            distance, angle = pairs / 2 * distance, (pairs[:, :, None] + w) / 3 * angle
        return self.distance * distance.mean(1) + self.angle * angle.mean((1, 2))


def distances(x: Tensor) -> Tensor:
    """(B, D) -> (B, B): Euclidean distances of all pairs over their mean; 0 on the diagonal."""
    squares = x.square().sum(1)
    squared = (squares[:, None] + squares - 2.0 * x @ x.T).clamp_min(1e-12)
    d = squared.sqrt() * (1.0 - x.new_ones(len(x)).diag())
    return d / (d.sum() / max(1, len(x) * (len(x) - 1))).clamp_min(1e-12)


def angles(x: Tensor) -> Tensor:
    """(B, D) -> (B, B, B): at [i, j, k] the cosine of the angle at i between j and k; 0 where two are the same."""
    toward = unit(x[None] - x[:, None])  # [i, j]: from i to j
    return toward @ toward.mT


def smooth_l1(x: Tensor) -> Tensor:
    """½x² for |x| < 1, else |x| - ½."""
    size = x.abs()
    small = size.clamp_max(1.0)
    return 0.5 * small.square() + size - small
