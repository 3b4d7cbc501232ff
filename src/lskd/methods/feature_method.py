"""What the methods of the CRD benchmark share (Tian, Krishnan & Isola 2020; HobbitLong/RepDistiller)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import cross_entropy, soft_kl
from lskd.methods.method import Batch, Method, Pair
from lskd.targets.distributions import soften

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Combined(Method):
    """L = ce · H(q, p_s) + kd · T² · KL(p_t(T) ‖ p_s(T)), with T = kd_temperature

    The benchmark's r, a and, in what is built on this, b: `ce`, `kd` and `weight`. Its rows of a method alone have
    (1, 0, b), those of a method with KD (1, 1, b); its row of KD is `kd`, (0.1, 0.9).
    """

    needs_teacher: ClassVar[bool] = True

    ce: float = 1.0
    kd: float = 0.0
    kd_temperature: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            if isinstance(value := getattr(self, field.name), (int, float)):
                require(0 <= value < math.inf, field.name, value, ">= 0 and finite")
        require(self.kd_temperature > 0, "kd_temperature", self.kd_temperature, "> 0")

    @property
    def teacher_use(self) -> Literal["none", "logits", "features"]:
        use = super().teacher_use
        return "none" if use == "logits" and not self.kd else use

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        terms = {"ce": self.ce * cross_entropy(batch.logits, batch.targets)}
        if self.kd:
            assert batch.teacher_logits is not None
            T = self.kd_temperature
            terms["soft"] = self.kd * T**2 * soft_kl(batch.logits, batch.teacher_logits, student_t=T, teacher_t=T)
        return terms

    @property
    def tells(self) -> bool:
        return bool(self.kd)

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor | None:
        return soften(teacher_logits, self.kd_temperature) if self.kd else None


@dataclass(frozen=True)
class FeatureMethod(Combined):
    """L = ce · H(q, p_s) + kd · T² · KL(p_t(T) ‖ p_s(T)) + weight · L_feature, with subclasses' `feature_loss`"""

    weight: float = 1.0

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        return {**super().loss(batch), "feature": self.weight * self.feature_loss(batch)}

    def feature_loss(self, batch: Batch) -> Tensor:
        """L_feature of each example, (B,); that of a whole batch is their mean."""
        raise TypeError(f"{type(self).__name__} does not define feature_loss(batch)")

    def build(self, pair: Pair) -> nn.Module | None:
        _ = pair.shapes  # `InputError` unless there are as many features of the one network as of the other
        return None


def total(losses: Sequence[Tensor]) -> Tensor:
    """Their sum."""
    return sum(losses[1:], losses[0])


def halving_backwards(losses: Sequence[Tensor]) -> Tensor:
    """Σ_l 2^(l-L) loss_l over l = 1, ..., L: the last map's counts most."""
    return total([loss / 2 ** (len(losses) - 1 - place) for place, loss in enumerate(losses)])


def unit(x: Tensor, dim: int = -1) -> Tensor:
    """x / max(‖x‖₂, 1e-12) along `dim`."""
    return x / x.norm(dim=dim, keepdim=True).clamp_min(1e-12)


def same_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two feature maps (B, ·, H, W); the larger one average-pooled to the other's height and width."""
    from torch.nn.functional import adaptive_avg_pool2d

    (height, width), (other_height, other_width) = first.shape[2:], second.shape[2:]
    if height > other_height:
        first = adaptive_avg_pool2d(first, (other_height, other_width))
    elif height < other_height:
        second = adaptive_avg_pool2d(second, (height, width))
    return first, second
