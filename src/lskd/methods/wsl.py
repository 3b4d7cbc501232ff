"""Weighted soft labels (Zhou, Song et al. 2021, "Rethinking Soft Labels for Knowledge Distillation", ICLR)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import label_loss
from lskd.methods.kd import KD
from lskd.methods.method import Batch, register
from lskd.quantity import Quantity

if TYPE_CHECKING:
    from torch import Tensor

Weighting = Literal["exp", "sigmoid_difference", "sigmoid_ratio", "sigmoid_rescaled"]


@register("wsl")
@dataclass(frozen=True)
class WSL(KD):
    """L = L_ce + β · w · L_kd, with the weight w of `wsl_weights` and L_kd = -T² Σ_k p_t(T)_k log p_s(T)_k

    The paper's α is β here: 2.25 with T = 4 on CIFAR-100, 2.5 with T = 2 on ImageNet. Its Table 9 tries a sigmoid for
    w, whose argument it does not print: `weighting` has the candidates.
    """

    watches: ClassVar[Mapping[str, Quantity]] = {
        **KD.watches,
        "weight": Quantity("weight of the soft term"),
    }

    beta: float = 2.25
    weights: Literal["complement", "add"] = "add"
    divergence: Literal["kl", "ce"] = "ce"
    count_rs: bool = True
    weighting: Weighting = "exp"

    def __post_init__(self) -> None:
        super().__post_init__()
        rule = "null with method=wsl, whose weights change with the student"
        require(self.true_class is None, "true_class", self.true_class, rule)

    def soft_weights(self, batch: Batch) -> Tensor | None:
        kept, weights = super().soft_weights(batch), wsl_weights(batch, self.weighting)
        return weights if kept is None else kept * weights

    def watch(self, batch: Batch) -> Mapping[str, Tensor]:
        return {**super().watch(batch), "weight": wsl_weights(batch, self.weighting)}


def wsl_weights(batch: Batch, weighting: Weighting = "exp") -> Tensor:
    """WSL's weight of each example, (B,) in [0, 1], without gradient: small where the student outdoes its teacher.

    With ℓ_s, ℓ_t the cross-entropies of student and teacher with the hard label (of mixed images: with the mixture of
    both), at temperature 1, and r = ℓ_s / (ℓ_t + 1e-7):

    exp: w = 1 - exp(-r), the paper's. sigmoid_difference: σ(ℓ_s - ℓ_t). sigmoid_ratio: σ(r - 1). sigmoid_rescaled:
    2σ(r) - 1.
    """
    assert batch.teacher_logits is not None
    student, teacher = (
        batch.by_label(functools.partial(label_loss, logits.detach()))
        for logits in (batch.logits, batch.teacher_logits)
    )
    ratio = student / (teacher + 1e-7)
    if weighting == "sigmoid_difference":
        return (student - teacher).sigmoid()
    if weighting == "sigmoid_ratio":
        return (ratio - 1.0).sigmoid()
    if weighting == "sigmoid_rescaled":
        return 2.0 * ratio.sigmoid() - 1.0
    return -(-ratio).expm1()
