"""Metrics of a classifier: pure functions of logits (N, K) and labels (N,), in fp32 or better.

Percentages are 0..100, calibration errors are fractions 0..1, likelihoods are nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

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


def expected_calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """ECE of the top-1 prediction over equal-width confidence bins (Guo 2017), a fraction.

    ECE = Σ_b (n_b/N) |accuracy_b - confidence_b| over the bins of `reliability`. Müller 2019 uses 15 bins.
    """
    diagram = reliability(logits, labels, bins=bins)
    return sum(n * abs(accuracy - confidence) for n, confidence, accuracy in _filled(diagram)) / len(labels)


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


# ---- calibration --------------------------------------------------------------------------------------------------

TEMPERATURES = (0.05, 20.0)


def reliability(logits: Tensor, labels: Tensor, *, bins: int = 15) -> list[list[float]]:
    """The reliability diagram of the top-1 prediction: [examples, mean confidence, accuracy] of each bin.

    Bins have equal widths and are [lower, upper); the last one includes 1. An empty one is [0]. (torchmetrics 1.9 puts
    a confidence of exactly 1 in a bin of its own: an over-confident network then looks worse than by Guo's definition.)
    """
    probs = logits.float().softmax(-1)  # fp32: a bf16 softmax moves the ECE by 0.006
    confidence, predicted = probs.max(-1)
    bin_of = (confidence * bins).long().clamp_max(bins - 1)
    diagram: list[list[float]] = []
    for number in range(bins):
        inside = bin_of == number
        count = int(inside.sum())
        if not count:
            diagram.append([0])
            continue
        correct = (predicted[inside] == labels[inside]).double().mean().item()
        diagram.append([count, confidence[inside].double().mean().item(), correct])
    return diagram


def _filled(diagram: list[list[float]]) -> list[list[float]]:
    return [entry for entry in diagram if entry[0]]


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T of temperature scaling (Guo 2017): softmax(z/T) with the least negative log-likelihood.

    Searched between 0.05 and 20, which it is where there is no minimum (a network that is always right).
    """
    from scipy.optimize import minimize_scalar

    logits, labels = logits.double().cpu(), labels.cpu()
    targets = smooth_labels(labels, logits.shape[-1], alpha=0.0, dtype=logits.dtype)

    def loss(log_t: float) -> float:
        return cross_entropy(logits / math.exp(log_t), targets).mean().item()

    bounds = math.log(TEMPERATURES[0]), math.log(TEMPERATURES[1])
    return float(math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-5}).x))


def calibration(outputs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Calibration of a network on each part of the data, from its logits (N, K) and labels (N,) there:

    {part: {"reliability": …, "scaled": {other: {"temperature", "nll", "ece15", "reliability"}}}}

    "scaled" by the temperature that is best on the part `other`: held-out where that is another part, a posteriori
    where it is the part itself.
    """
    temperatures = {part: best_temperature(*output) for part, output in outputs.items()}
    result: dict[str, Any] = {}
    for part, (logits, labels) in outputs.items():
        scaled = {}
        for other, temperature in temperatures.items():
            cooled = logits.float() / temperature
            scaled[other] = {
                "temperature": temperature,
                "nll": negative_log_likelihood(cooled, labels),
                "ece15": expected_calibration_error(cooled, labels, bins=15),
                "reliability": reliability(cooled, labels),
            }
        result[part] = {"reliability": reliability(logits, labels), "scaled": scaled}
    return result
