"""Distributions over classes that networks are trained towards, and γ, which measures them.

Shapes: B examples, K classes. Every function is pure, and uses tensor methods only, so that importing this module does
not import torch (which keeps planning fast).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def smooth_labels(labels: Tensor, num_classes: int, alpha: float, mass: str = "all", dtype: object = None) -> Tensor:
    """Label-smoothed targets, (B,) int64 -> (B, K).

    mass="all" (Szegedy 2016; Müller 2019, sec. 1; torch's `label_smoothing`):   q = (1-α)·onehot(y) + α/K
    mass="others" (Shen 2021, eq. 1; Zhang & Sabuncu 2020):                      q_y = 1-α, q_k = α/(K-1) for k != y

    "others" with α equals "all" with α·K/(K-1). α = 0 gives one-hot targets.
    """
    if mass == "all":
        off, on = alpha / num_classes, 1.0 - alpha + alpha / num_classes
    elif mass == "others":
        off, on = alpha / (num_classes - 1), 1.0 - alpha
    else:
        raise ValueError(f"mass = {mass!r}: must be 'all' or 'others'")
    import torch

    targets = torch.full((len(labels), num_classes), off, dtype=dtype or torch.float32, device=labels.device)  # type: ignore[call-overload]
    return targets.scatter_(1, labels[:, None], on)


def soften(logits: Tensor, temperature: float, top_k: int = 0) -> Tensor:
    """softmax(logits / T), (B, K) -> (B, K). Hinton 2015, eq. 1. T -> infinity gives uniform targets.

    top_k: of the k largest logits alone, and 0 for the others; 0, or more than there are: of all.
    """
    if not top_k:
        return (logits / temperature).softmax(-1)
    largest, classes = logits.topk(min(top_k, logits.shape[-1]), -1)
    return logits.new_zeros(logits.shape).scatter(-1, classes, (largest / temperature).softmax(-1))


def equivalent_smoothing(teacher_probs: Tensor, labels: Tensor) -> Tensor:
    """Müller 2019's γ of each example, (B, K) and (B,) -> (B,):  γ = (1 - p_t(y)) · K/(K-1).

    Its mean over the training set puts a distilled student on the axis of label smoothing's α: for targets smoothed
    with mass="all", γ = α exactly (α/K on each of K-1 wrong classes).
    """
    num_classes = teacher_probs.shape[-1]
    p_true = teacher_probs.gather(-1, labels[:, None]).squeeze(-1)
    return (1.0 - p_true) * (num_classes / (num_classes - 1))
