"""Knowledge distillation on logits (Hinton, Vinyals & Dean 2015), with every convention that papers disagree on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import cross_entropy, regularization_samples, soft_cross_entropy, soft_kl
from lskd.methods.method import Batch, Method, register
from lskd.quantity import Quantity
from lskd.targets.distributions import soften

if TYPE_CHECKING:
    from torch import Tensor


@register("kd")
@dataclass(frozen=True)
class KD(Method):
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

    Four more fields are for the analysis of regularization samples (`losses.regularization_samples`; Zhou et al. 2021),
    which are judged in each step anew:

    - `keep_rs`, `keep_others`: chance that an example keeps its soft term, for regularization samples and for the
      others. (0, 1) distils without regularization samples, (1, 0) on them alone; a chance in between is the paper's
      way from the one to the other. The mean stays one over the batch, and all keep the term of the labels.
    - `masked`: "sum" leaves the label's term out of the sum over classes in D (the formula that the paper prints);
      "gradient" lets no gradient into the student's logit of the label (what the paper says it is for: with "sum",
      p_s's normaliser still brings one).
    - `count_rs`: log the share of regularization samples in each epoch, as "rs".
    """

    needs_teacher: ClassVar[bool] = True
    watches: ClassVar[Mapping[str, Quantity]] = {"rs": Quantity("regularization samples")}

    temperature: float = 4.0
    beta: float = 0.9
    weights: Literal["complement", "add"] = "complement"
    t_squared: bool = True
    student_t: Literal["same", "one"] = "same"
    divergence: Literal["kl", "ce"] = "kl"
    keep_rs: float = 1.0
    keep_others: float = 1.0
    masked: Literal["no", "sum", "gradient"] = "no"
    count_rs: bool = False

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "> 0 and finite")
        require(0 <= self.beta < math.inf, "beta", self.beta, ">= 0 and finite")
        for name in ("keep_rs", "keep_others"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        if self.weights == "complement":
            require(self.beta <= 1, "beta", self.beta, "in [0, 1] with weights=complement (weights=add has no bound)")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        distance = soft_kl if self.divergence == "kl" else soft_cross_entropy
        student_t = self.temperature if self.student_t == "same" else 1.0
        logits = batch.logits
        if self.masked == "gradient":
            label = batch.labels[:, None]
            logits = logits.scatter(1, label, logits.detach().gather(1, label))
        without = batch.labels if self.masked == "sum" else None
        soft = distance(logits, batch.teacher_logits, student_t=student_t, teacher_t=self.temperature, without=without)
        if (weights := self.soft_weights(batch)) is not None:
            soft = weights * soft
        hard_weight = 1.0 - self.beta if self.weights == "complement" else 1.0
        soft_weight = self.beta * (self.temperature**2 if self.t_squared else 1.0)
        terms = {"soft": soft_weight * soft}
        if hard_weight:
            terms["ce"] = hard_weight * cross_entropy(batch.logits, batch.targets)
        return terms

    @property
    def one_label(self) -> bool:
        return self.masked != "no" or not self.keep_rs == self.keep_others == 1

    def soft_weights(self, batch: Batch) -> Tensor | None:
        """Factors (B,) of the soft term; None for 1."""
        if self.keep_rs == self.keep_others == 1:
            return None
        rs = self._rs(batch, batch.labels)
        chance = rs * self.keep_rs + ~rs * self.keep_others
        return (batch.logits.new_empty(len(rs)).uniform_(generator=batch.generator) < chance).float()

    @property
    def watched(self) -> Collection[str]:
        return [name for name in self.watches if name != "rs" or self.count_rs]

    def watch(self, batch: Batch) -> Mapping[str, Tensor]:
        return {"rs": batch.by_label(lambda labels: self._rs(batch, labels))} if self.count_rs else {}

    def _rs(self, batch: Batch, labels: Tensor) -> Tensor:
        assert batch.teacher_logits is not None
        return regularization_samples(batch.logits.detach(), batch.teacher_logits, labels, self.temperature)

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor:
        return soften(teacher_logits, self.temperature)
