"""Knowledge distillation on logits (Hinton, Vinyals & Dean 2015), with every convention that papers disagree on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.losses import cross_entropy, soft_cross_entropy, soft_kl
from lskd.methods.method import Batch, Method, require
from lskd.targets import soften

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Distillation(Method):
    """L = w_hard · H(q, p_s) + w_soft · [T²] · D(p_t(T), p_s(T or 1))

    | field | meaning | Hinton, CRD | Müller 2019 | WSL's L_kd | Zhang 2020 |
    |---|---|---|---|---|---|
    | temperature | T | 4 | 1 … 16 | 4 | 4 |
    | beta | weight of the soft term | 0.9 | 1 | 2.25 | 0.4 |
    | weights | complement: (1-β, β); add: (1, β) | complement | complement | add | complement |
    | t_squared | multiply the soft term by T² | yes | no | yes | no |
    | student_t | the student is divided by T too ("same") or not ("one") | same | one | same | one |
    | divergence | KL(p_t‖p_s), or cross-entropy H(p_t, p_s): same gradient | kl | ce | ce | ce |

    β = 0 is `ce`; β = 1 with complement weights is soft targets only.
    """

    needs_teacher: ClassVar[bool] = True

    temperature: float = 4.0
    beta: float = 0.9
    weights: Literal["complement", "add"] = "complement"
    t_squared: bool = True
    student_t: Literal["same", "one"] = "same"
    divergence: Literal["kl", "ce"] = "kl"

    def __post_init__(self) -> None:
        require(self.temperature > 0, "temperature", self.temperature, "> 0")
        require(self.beta >= 0, "beta", self.beta, ">= 0")
        if self.weights == "complement":
            require(self.beta <= 1, "beta", self.beta, "in [0, 1] with weights=complement (weights=add has no bound)")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        distance = soft_kl if self.divergence == "kl" else soft_cross_entropy
        student_t = self.temperature if self.student_t == "same" else 1.0
        soft = distance(batch.logits, batch.teacher_logits, student_t=student_t, teacher_t=self.temperature)
        hard_weight = 1.0 - self.beta if self.weights == "complement" else 1.0
        soft_weight = self.beta * (self.temperature**2 if self.t_squared else 1.0)
        terms = {"soft": soft_weight * soft}
        if hard_weight:
            terms["ce"] = hard_weight * cross_entropy(batch.logits, batch.targets)
        return terms

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor:
        return soften(teacher_logits, self.temperature)
