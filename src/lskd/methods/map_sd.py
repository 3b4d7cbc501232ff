"""Self-distillation as maximum a posteriori with a Dirichlet prior of each image (Zhang & Sabuncu 2020)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from lskd.errors import require
from lskd.losses import cross_entropy, soft_cross_entropy
from lskd.methods.method import Batch, Lesson, Method, register
from lskd.quantity import Quantity
from lskd.targets.distributions import soften

if TYPE_CHECKING:
    from torch import Tensor


@register("map_sd")
@dataclass(frozen=True)
class MapSD(Method):
    """L = H(q, p_s) + β · ω_x/ω̄ · H(p_t(T), p_s), with the teacher alone divided by T, and

        ω_x = Σ_j exp(f_t(x)_j / T),    ω̄ = its mean over the training images

    The prior of the student's prediction for x is Dirichlet with α_x = b·exp(f_t(x)/T) + 1, so that the negative log
    posterior is -log p_s(y) - b · Σ_j exp(f_t(x)_j/T) · log p_s(j): the second term is b · ω_x · H(p_t(T), p_s). (With
    α = b/K + 1 for all images and classes it is label smoothing.) β is b·ω̄, the weight of the soft term in the mean.

    omega: "instance" is that; "constant" has ω̄ for every image, as self-distillation does: `kd` with weights=add,
    t_squared=false, student_t=one and divergence=ce.

    Why ω̄: a cross-entropy does not know what is added to all logits of an image, but ω_x does, and it grows
    exponentially with the logits: b would have to be another number for each teacher, and exp(f_t/T) overflows fp32
    from f_t = 88·T on. Only log ω_x - log ω̄ is exponentiated, which of the training images is at most log N. Where a
    few images have nearly all of ω, so they have of the soft term: a higher T evens that out.

    log_omega: log ω̄; null is solved for before the training, from each image's view of the first epoch. 0 leaves the
    formula as the paper has it, with β for b.
    """

    needs_teacher: ClassVar[bool] = True
    solves: ClassVar[Mapping[str, Quantity]] = {
        "log_omega": Quantity("logarithm of the mean weight ω of the soft term", digits=2)
    }

    beta: float = 2 / 3
    temperature: float = 4.0
    omega: Literal["instance", "constant"] = "instance"
    log_omega: float | None = None

    def __post_init__(self) -> None:
        require(0 <= self.beta < math.inf, "beta", self.beta, ">= 0 and finite")
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "> 0 and finite")
        idle = self.omega == "constant" and self.log_omega is not None
        require(not idle, "log_omega", self.log_omega, "left out with omega=constant, where it changes nothing")

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        T = self.temperature
        soft = soft_cross_entropy(batch.logits, batch.teacher_logits, student_t=1.0, teacher_t=T)
        if self.omega == "instance":
            soft = ((batch.teacher_logits / T).logsumexp(-1) - (self.log_omega or 0.0)).exp() * soft
        return {"ce": cross_entropy(batch.logits, batch.targets), "soft": self.beta * soft}

    @property
    def to_solve(self) -> Collection[str]:
        return self.solves if self.omega == "instance" and self.log_omega is None else ()

    def settle(self, lesson: Lesson) -> MapSD:
        """With log ω̄ of the training images."""
        import torch

        log_omegas = [(logits.double() / self.temperature).logsumexp(-1) for logits in lesson.logits]
        mean = torch.cat(log_omegas).logsumexp(0).item() - math.log(len(lesson.labels))
        return replace(self, log_omega=mean)

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor:
        return soften(teacher_logits, self.temperature)
