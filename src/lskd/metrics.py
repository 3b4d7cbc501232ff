"""Metrics of a classifier: pure functions of logits (N, K) and labels (N,), in fp32 or better.

Percentages are 0..100, calibration errors are fractions 0..1, likelihoods are nats.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lskd.losses import cross_entropy
from lskd.targets import smooth_labels


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 1) -> float:
    """Percentage of examples whose label is among the k largest logits. Ties go to the lower class index.

    (`torch.topk` breaks ties arbitrarily, and bf16 logits do tie.)
    """
    mine = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[-1], device=logits.device) < labels[:, None]
    ahead = ((logits > mine) | ((logits == mine) & lower)).sum(1)
    return 100.0 * (ahead < k).double().mean().item()


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label), in nats."""
    return cross_entropy(logits.float(), smooth_labels(labels, logits.shape[-1], alpha=0.0)).double().mean().item()


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15, norm: str = "l1") -> float:
    """ECE of the top-1 prediction over equal-width confidence bins (Guo 2017), a fraction.

    ECE = Σ_b (n_b/N) |accuracy_b - confidence_b|. Müller 2019 uses 15 bins. torchmetrics computes it; softmax is
    applied here, in fp32, because torchmetrics takes logits that all lie in [0, 1] for probabilities.
    """
    probs = logits.float().softmax(-1)
    value = multiclass_calibration_error(probs, labels, num_classes=logits.shape[-1], n_bins=bins, norm=norm)  # type: ignore[arg-type]
    return float(value)


def summary(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """All metrics that a run records for one part of the data."""
    logits = logits.float()
    top1 = top_k_accuracy(logits, labels, 1)
    values = {
        "top1": top1,
        "error": 100.0 - top1,
        "nll": negative_log_likelihood(logits, labels),
        "ece15": expected_calibration_error(logits, labels, bins=15),
    }
    if logits.shape[-1] > 5:
        values["top5"] = top_k_accuracy(logits, labels, 5)
    if not torch.isfinite(logits).all():
        raise FloatingPointError("the network's outputs are not finite")
    return values
