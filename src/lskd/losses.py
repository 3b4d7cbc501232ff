"""Losses: pure functions of logits and targets, one value per example.

Shapes: B examples, K classes; logits (B, K), targets (B, K) probabilities, result (B,), in nats. The training loop
takes the mean over the batch once. Only tensor methods are used: importing this module does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """H(q, p) = -Σ_k q_k log p_k, with p = softmax(logits).

    With `targets.distributions.smooth_labels(..., mass="all")` it equals
    `torch.nn.functional.cross_entropy(logits, labels, label_smoothing=alpha, reduction="none")`.
    """
    return -(targets * logits.log_softmax(-1)).sum(-1)


def entropy(probs: Tensor) -> Tensor:
    """H(p) = -Σ_k p_k log p_k of probabilities (B, K); 0·log 0 = 0."""
    return -(probs.xlogy(probs)).sum(-1)


def soft_cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    student_t: float,
    teacher_t: float,
    without: Tensor | None = None,
    top_k: int = 0,
) -> Tensor:
    """H(p_t(T_t), p_s(T_s)): cross-entropy of the student at temperature T_s with the teacher softened at T_t.

    Hinton 2015, CRD and WSL use T_s = T_t; Müller 2019 and Zhang & Sabuncu 2020 divide the teacher only (T_s = 1).
    No T² factor here: the method applies it where its paper does. `without`: a class (B,) of each example, whose term
    is left out of the sum (both are normalised over all classes). `top_k`: of the teacher only its k largest classes
    count, among which p_t is normalised, as p_s is among all; 0, or more than there are: all. (Not with `without`.)
    """
    if top_k:
        log_p_t, log_p_s = _largest(student_logits / student_t, teacher_logits, teacher_t, top_k)
        return -(log_p_t.exp() * log_p_s).sum(-1)
    p_t = (teacher_logits / teacher_t).softmax(-1)
    if without is not None:
        p_t = p_t.scatter(-1, without[:, None], 0.0)
    return cross_entropy(student_logits / student_t, p_t)


def _largest(student_logits: Tensor, teacher_logits: Tensor, teacher_t: float, k: int) -> tuple[Tensor, Tensor]:
    """log p_t(T_t) of the teacher's k largest classes among themselves, and the student's log p_s of these: (B, k)."""
    largest, classes = teacher_logits.topk(min(k, teacher_logits.shape[-1]), -1)
    return (largest / teacher_t).log_softmax(-1), student_logits.log_softmax(-1).gather(-1, classes)


def soft_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    student_t: float,
    teacher_t: float,
    without: Tensor | None = None,
    top_k: int = 0,
) -> Tensor:
    """KL(p_t(T_t) ‖ p_s(T_s)) = H(p_t, p_s) - H(p_t): the direction that all five papers use.

    Its gradient for the student is that of `soft_cross_entropy`; the value is 0 where the two agree. `without`,
    `top_k`: as there.
    """
    if top_k:
        log_p_t, log_p_s = _largest(student_logits / student_t, teacher_logits, teacher_t, top_k)
        return (log_p_t.exp() * (log_p_t - log_p_s)).sum(-1)
    log_p_t = (teacher_logits / teacher_t).log_softmax(-1)
    log_p_s = (student_logits / student_t).log_softmax(-1)
    terms = log_p_t.exp() * (log_p_t - log_p_s)
    if without is not None:
        terms = terms.scatter(-1, without[:, None], 0.0)
    return terms.sum(-1)


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """-log p_y: `cross_entropy` with hard labels (B,) int64."""
    return -logits.log_softmax(-1).gather(-1, labels[:, None]).squeeze(-1)


def regularization_samples(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Which examples are regularization samples, (B,) bool (Zhou et al. 2021, sec. 3: WSL).

    With z_y the student's logit of the label and L_kd = -T² Σ_k p_t(T)_k log p_s(T)_k, an example is one if variance
    falls faster than bias, |b| > |a|:

    a = ∂L_ce/∂z_y = p_s(1)_y - 1;   b = ∂(L_kd - L_ce)/∂z_y = T·(p_s(T)_y - p_t(T)_y) - a

    At T = 1 that is p_s(y) > p_t(y).
    """
    a = (-label_loss(student_logits, labels)).exp() - 1.0
    p_s, p_t = ((-label_loss(logits / temperature, labels)).exp() for logits in (student_logits, teacher_logits))
    b = temperature * (p_s - p_t) - a
    return b.abs() > a.abs()


def logit_mse(student_logits: Tensor, teacher_logits: Tensor, *, reduce: str = "sum") -> Tensor:
    """½ Σ_k (z_s - z_t)² over the K logits ("sum"), or that divided by K ("mean"). Müller 2019, A.5.

    T²·`soft_kl` at one temperature T tends to ½/K Σ_k (ẑ_s - ẑ_t)² as T grows, with ẑ the logits less their mean
    (Hinton 2015, sec. 2.1).
    """
    squares = (student_logits - teacher_logits).square()
    if reduce == "sum":
        return 0.5 * squares.sum(-1)
    if reduce == "mean":
        return 0.5 * squares.mean(-1)
    raise ValueError(f"reduce = {reduce!r}: must be 'sum' or 'mean'")
