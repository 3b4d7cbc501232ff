"""Knowledge distillation on logits (Hinton, Vinyals & Dean 2015), with every convention that papers disagree on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from lskd.errors import InputError, require
from lskd.losses import cross_entropy, label_loss, regularization_samples, soft_cross_entropy, soft_kl
from lskd.methods.method import Batch, Lesson, Method, register
from lskd.quantity import Quantity
from lskd.schema import show
from lskd.targets.distributions import soften

if TYPE_CHECKING:
    from torch import Tensor

COLDEST, HOTTEST = -7, 10  # powers of 2: temperatures between which `true_class` is solved for
PIECE = 8192  # images whose logits are looked at together


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

    top_k: the teacher tells only its k largest classes, p_t normalised among these and p_s among all (Tan et al. 2019,
    for translation: 4); 0: all of them.

    true_class: instead of a temperature, the mean target of the true class over the training images,
    (1-β)·q_y + β·mean p_t(T)_y, for which T is solved before the training (Zhang & Sabuncu 2020 compare methods of
    equal mean targets). Of several such T the largest; views are those of the first epoch.
    """

    needs_teacher: ClassVar[bool] = True
    watches: ClassVar[Mapping[str, Quantity]] = {"rs": Quantity("regularization samples")}
    solves: ClassVar[Mapping[str, Quantity]] = {
        "temperature": Quantity("temperature of distillation that was solved for", digits=2)
    }

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
    true_class: float | None = None
    top_k: int = 0

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "temperature", self.temperature, "> 0 and finite")
        require(0 <= self.beta < math.inf, "beta", self.beta, ">= 0 and finite")
        for name in ("keep_rs", "keep_others"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "in [0, 1]")
        if self.weights == "complement":
            require(self.beta <= 1, "beta", self.beta, "in [0, 1] with weights=complement (weights=add has no bound)")
        require(self.top_k >= 0, "top_k", self.top_k, ">= 0; 0 stands for all classes")
        alone = self.masked == "no" and not self.count_rs and self.keep_rs == self.keep_others == 1
        rule = "0 with true_class, masked, count_rs, keep_rs or keep_others, which are about all classes"
        require(not self.top_k or (alone and self.true_class is None), "top_k", self.top_k, rule)
        if self.true_class is not None:
            self._check_true_class()

    def _check_true_class(self) -> None:
        """`InputError` unless the two terms are the cross-entropy with one target, whose true class has a share."""
        assert self.true_class is not None
        require(0 < self.true_class < 1, "true_class", self.true_class, "in (0, 1), or null")
        solves = "left out with true_class, which solves for it"
        require(self.temperature == KD.temperature, "temperature", self.temperature, solves)
        require(self.beta > 0, "beta", self.beta, "> 0 with true_class: a teacher that is not heard changes no target")
        one_target: dict[str, Any] = {"weights": "complement", "t_squared": False, "student_t": "one", "masked": "no"}
        one_target |= {"keep_rs": 1, "keep_others": 1}
        for name, value in one_target.items():
            rule = f"{show(value)} with true_class: else the two terms have no target in common"
            require(getattr(self, name) == value, name, getattr(self, name), rule)

    def loss(self, batch: Batch) -> Mapping[str, Tensor]:
        assert batch.teacher_logits is not None
        distance = soft_kl if self.divergence == "kl" else soft_cross_entropy
        student_t = self.temperature if self.student_t == "same" else 1.0
        logits = batch.logits
        if self.masked == "gradient":
            label = batch.labels[:, None]
            logits = logits.scatter(1, label, logits.detach().gather(1, label))
        without = batch.labels if self.masked == "sum" else None
        soft = distance(
            logits,
            batch.teacher_logits,
            student_t=student_t,
            teacher_t=self.temperature,
            without=without,
            top_k=self.top_k,
        )
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

    @property
    def to_solve(self) -> Collection[str]:
        return () if self.true_class is None else self.solves

    @property
    def needs_rows(self) -> bool:
        return self.true_class is not None

    def settle(self, lesson: Lesson) -> KD:
        """With the T that gives the true class its mean target."""
        assert self.true_class is not None
        hard = lesson.targets.diagonal()[lesson.labels].double().mean().item()
        pieces = [piece for logits in lesson.logits for piece in logits.split(PIECE)]
        labels = lesson.labels.split([len(piece) for piece in pieces])

        def mean_target(log_t: float) -> float:
            """Of the true class at temperature exp(log_t)."""
            shares = (
                (-label_loss(logits.double() / math.exp(log_t), own)).exp().sum().item()
                for logits, own in zip(pieces, labels, strict=True)
            )
            return (1.0 - self.beta) * hard + self.beta * sum(shares) / len(lesson.labels)

        # Images that the teacher gets wrong have their largest share at some T between: the mean need not fall
        # everywhere. Of powers of 2 from above, the first that reaches the target has the largest solution above it.
        grid = [math.log(2) * power for power in range(HOTTEST, COLDEST - 1, -1)]
        found = [mean_target(log_t) for log_t in grid]
        reaches = next((place for place, mean in enumerate(found) if mean >= self.true_class), 0)
        if not reaches:
            rule = f"between {found[0]:.4g} and {max(found):.4g}, what this teacher gives at any T"
            raise InputError(f"method.true_class = {self.true_class:g}: must be {rule}")
        from scipy.optimize import brentq

        between = grid[reaches], grid[reaches - 1]
        log_t = brentq(lambda log_t: mean_target(log_t) - self.true_class, *between, xtol=1e-12)
        return replace(self, temperature=math.exp(log_t), true_class=None)

    def teacher_probs(self, teacher_logits: Tensor) -> Tensor:
        return soften(teacher_logits, self.temperature, self.top_k)
