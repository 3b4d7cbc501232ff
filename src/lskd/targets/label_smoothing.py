"""Label smoothing, and hard labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from lskd.errors import require
from lskd.targets.distributions import smooth_labels
from lskd.targets.target import Target, register

if TYPE_CHECKING:
    from torch import Tensor


@register("label_smoothing")
@dataclass(frozen=True)
class LabelSmoothing(Target):
    """q = (1-α)·onehot(y) + α/K, or α/(K-1) on the other classes alone: see `distributions.smooth_labels`.

    α = 0, the default, is hard labels.
    """

    alpha: float = 0.0
    mass: Literal["all", "others"] = "all"

    def __post_init__(self) -> None:
        require(0 <= self.alpha < 1, "alpha", self.alpha, "in [0, 1)")

    def rows(self, labels: Tensor, classes: int) -> Tensor:
        return smooth_labels(labels, classes, self.alpha, self.mass)

    def gamma(self, classes: int) -> float:
        return self.alpha * (classes / (classes - 1) if self.mass == "others" else 1.0)

    @property
    def label(self) -> str:
        return f"α={self.alpha:g}" if self.alpha else ""
